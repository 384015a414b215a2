//! What is not understood is refused with a code and the numbers, and changes nothing.

use iceformer_knn::{
    Error, FilterKind, Index, IndexOptions, MAX_DIMENSIONS, MAX_K, Metric, RadiusOptions, SearchOptions,
};
use iceformer_threads::ThreadPool;

fn pool() -> ThreadPool {
    ThreadPool::new(1)
}

/// Two vectors of two numbers, each with a value of one, ids 0 and 1.
fn index(metric: Metric) -> Index {
    let mut index = Index::new(IndexOptions { metric, value_dimensions: 1, ..IndexOptions::new(2) }, pool()).unwrap();
    index.add_batch(&[1.0, 0.0, 0.0, 2.0], None, Some(&[5.0, 6.0])).unwrap();
    index
}

#[test]
fn options_of_an_index() {
    for dimensions in [0, MAX_DIMENSIONS + 1] {
        let error = Index::new(IndexOptions::new(dimensions), pool()).unwrap_err();
        assert_eq!(error, Error::Dimensions { dimensions, max: MAX_DIMENSIONS });
        assert_eq!(error.code(), "ERR_DIMENSIONS");
    }
    let options = IndexOptions { value_dimensions: MAX_DIMENSIONS + 1, ..IndexOptions::new(1) };
    assert_eq!(Index::new(options, pool()).unwrap_err().code(), "ERR_DIMENSIONS");
}

/// Metric, vectors, ids, values, and the code they must give.
type Case<'a> = (Metric, &'a [f32], Option<&'a [u64]>, Option<&'a [f32]>, &'static str);

#[test]
fn vectors_to_add() {
    let long = [1e18_f32, 1e18];
    let (cosine, inner) = (Metric::Cosine, Metric::InnerProduct);
    let cases: [Case<'_>; 14] = [
        (inner, &[1.0, 2.0, 3.0], None, Some(&[1.0]), "ERR_DIMENSION_MISMATCH"),
        (inner, &[1.0, f32::NAN], None, Some(&[1.0]), "ERR_NOT_FINITE"),
        (inner, &[f32::INFINITY, 1.0], None, Some(&[1.0]), "ERR_NOT_FINITE"),
        (inner, &long, None, Some(&[1.0]), "ERR_TOO_LARGE"),
        (cosine, &[0.0, -0.0], None, Some(&[1.0]), "ERR_ZERO_VECTOR"),
        (inner, &[1.0, 2.0], Some(&[7, 8]), Some(&[1.0]), "ERR_COUNT_MISMATCH"),
        (inner, &[1.0, 2.0], Some(&[1]), Some(&[1.0]), "ERR_DUPLICATE_ID"),
        (inner, &[1.0, 2.0, 3.0, 4.0], Some(&[9, 9]), Some(&[1.0, 2.0]), "ERR_DUPLICATE_ID"),
        (inner, &[1.0, 2.0], Some(&[u64::MAX]), Some(&[1.0]), "ERR_ID"),
        (inner, &[1.0, 2.0], None, None, "ERR_VALUES_MISSING"),
        (inner, &[1.0, 2.0], None, Some(&[1.0, 2.0]), "ERR_COUNT_MISMATCH"),
        (inner, &[1.0, 2.0], None, Some(&[f32::NAN]), "ERR_NOT_FINITE"),
        (inner, &[], None, Some(&[1.0]), "ERR_COUNT_MISMATCH"),
        (inner, &[], Some(&[3]), Some(&[]), "ERR_COUNT_MISMATCH"),
    ];
    for (metric, vectors, ids, values, code) in cases {
        let mut index = index(metric);
        let before = index.to_bytes().unwrap();
        let error = index.add_batch(vectors, ids, values).unwrap_err();
        assert_eq!(error.code(), code, "{error}");
        assert!(!error.details().is_empty(), "{error}");
        // Replacing takes the ids that adding refuses, and nothing else.
        if error.code() != "ERR_DUPLICATE_ID" {
            let ids = ids.map_or_else(|| vec![0; vectors.len() / 2], <[u64]>::to_vec);
            assert_eq!(index.upsert_batch(vectors, &ids, values).unwrap_err().code(), code);
        }
        assert!(index.to_bytes().unwrap() == before, "{error}: changed");
    }
    let mut index = index(inner);
    assert_eq!(
        index.add(&[1.0], None, Some(&[1.0])),
        Err(Error::DimensionMismatch { what: "vector", actual: 1, expected: 2 })
    );
    index.add(&[1.0, 1.0], Some(u64::MAX - 1), Some(&[1.0])).unwrap();
    assert_eq!(index.add(&[1.0, 1.0], None, Some(&[1.0])), Err(Error::IdsExhausted { last: u64::MAX - 1 }));
}

#[test]
fn ids_that_are_not_there() {
    let mut index = index(Metric::L2);
    assert_eq!(index.get(2), Err(Error::UnknownId { id: 2 }));
    assert_eq!(index.value(u64::MAX), Err(Error::UnknownId { id: u64::MAX }));
    assert_eq!(index.remove_batch(&[2, u64::MAX]), Ok(0));
    let plain = Index::new(IndexOptions::new(2), pool()).unwrap();
    assert_eq!(plain.value(0), Err(Error::NoValues));
}

#[test]
fn searches() {
    let index = index(Metric::Cosine);
    let query = [1.0, 1.0];
    let search = |query: &[f32], options: SearchOptions<'_>| index.search(query, options).unwrap_err().code();
    let nearest = SearchOptions::nearest(1);
    assert_eq!(index.search(&query, SearchOptions::nearest(0)), Err(Error::K { k: 0, max: MAX_K }));
    assert_eq!(search(&query, SearchOptions::nearest(MAX_K + 1)), "ERR_K");
    for share in [0.0, -0.5, 1.01, f32::NAN] {
        assert_eq!(search(&query, SearchOptions { effort: Some(share), ..nearest }), "ERR_EFFORT");
        assert_eq!(search(&query, SearchOptions { recall: Some(share), ..nearest }), "ERR_RECALL");
    }
    assert_eq!(search(&[1.0, 1.0, 1.0], nearest), "ERR_DIMENSION_MISMATCH");
    assert_eq!(search(&[1.0, f32::NAN], nearest), "ERR_NOT_FINITE");
    assert_eq!(search(&[0.0, 0.0], nearest), "ERR_ZERO_VECTOR");
    assert_eq!(search(&[1e19, 0.0], nearest), "ERR_TOO_LARGE");
    // A result of so many places does not fit any memory.
    let many = vec![1.0; 1 << 21];
    let error = index.search(&many, SearchOptions::nearest(MAX_K)).unwrap_err();
    assert_eq!(error, Error::OutOfMemory { bytes: (1 << 20) * MAX_K * 8 });
    let (mut ids, mut scores, mut counts) = ([0; 2], [0.0; 2], [0; 1]);
    let snapshot = index.snapshot();
    for (n_ids, n_scores, n_counts, what) in [(1, 2, 1, "ids"), (2, 1, 1, "scores"), (2, 2, 0, "counts")] {
        let error = snapshot
            .search_into(
                &query,
                SearchOptions::nearest(2),
                &mut ids[..n_ids],
                &mut scores[..n_scores],
                &mut counts[..n_counts],
            )
            .unwrap_err();
        assert!(matches!(error, Error::OutputLength { what: w, .. } if w == what), "{error}");
    }
    // No queries, and more neighbours than there are, are no errors.
    assert_eq!(index.search(&[], nearest).unwrap().counts, [0_u32; 0]);
    let found = index.search(&query, SearchOptions::nearest(5)).unwrap();
    assert_eq!((found.counts[0], found.ids[2..].to_vec()), (2, vec![u64::MAX; 3]));
}

#[test]
fn radii() {
    let index = index(Metric::L2);
    let within = |radius: f32, limit| {
        index.search_radius(&[0.0, 0.0], radius, RadiusOptions { limit, ..RadiusOptions::default() })
    };
    assert_eq!(within(-1.0, None), Err(Error::Radius { radius: -1.0 }));
    assert_eq!(within(f32::NAN, None).unwrap_err().code(), "ERR_RADIUS");
    assert_eq!(within(1.0, Some(0)), Err(Error::K { k: 0, max: MAX_K }));
    assert_eq!(within(1.0, None).unwrap().ids, [0]);
    assert_eq!(within(f32::INFINITY, None).unwrap().ids, [0, 1]);
}

#[test]
fn a_filter_of_another_state() {
    let mut index = index(Metric::L2);
    let before = index.snapshot();
    let filter = before.filter(FilterKind::Ids(&[1]), false);
    let options = SearchOptions { filter: Some(&filter), ..SearchOptions::nearest(1) };
    let query = [0.0, 0.0];
    assert_eq!(index.search(&query, options).unwrap().ids, [1]);
    index.remove_batch(&[1]).unwrap();
    assert_eq!(index.search(&query, options), Err(Error::ForeignFilter));
    assert_eq!(
        index.search_radius(&query, 9.0, RadiusOptions { filter: Some(&filter), ..RadiusOptions::default() }),
        Err(Error::ForeignFilter)
    );
    assert_eq!(before.search(&query, options).unwrap().ids, [1]);
    // The second vector of another index is not the second of this one.
    let other = self::index(Metric::L2);
    assert_eq!(other.search(&query, options), Err(Error::ForeignFilter));
    let none = before.filter(FilterKind::Ids(&[7]), false);
    assert!(none.is_empty());
    let nothing = before.search(&query, SearchOptions { filter: Some(&none), ..SearchOptions::nearest(1) }).unwrap();
    assert_eq!(nothing.counts, [0]);
}
