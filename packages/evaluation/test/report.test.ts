import { parseHTML } from 'linkedom';
import { describe, expect, test } from 'vitest';
import { type EvaluationResult, renderReport, wilson } from '../src/index.ts';

const estimate = (value: number) => ({ value, low: value * 0.99, high: value * 1.01 });

function result(names: readonly string[], heads: boolean): EvaluationResult {
  return {
    form: 'iceformer-evaluation',
    version: 1,
    model: {
      architecture: 'LlamaForCausalLM',
      fingerprint: 'f00',
      layers: 2,
      heads: 4,
      kvHeads: 2,
      headDim: 16,
      parameters: 1000,
      contextLength: 4096,
      dtype: 'bf16',
      kvDtype: 'bf16',
    },
    text: { sha256: 'beef', tokens: 9000 },
    machine: { cpu: 'Some CPU', simd: 'avx2', threads: 2 },
    seed: 1,
    attention: names.slice(1).map((name) => ({ name, attention: 'fast' })),
    prediction: {
      context: 2048,
      windows: 2,
      tokens: 2046,
      scores: names.map((attention, index) => ({
        attention,
        perplexity: estimate(10 + index),
        ratio: estimate(1 + index / 100),
        agreement: estimate(1 - index / 100),
        divergence: estimate(index / 100),
        retainedMass: 1 - index / 50,
        tilesRead: 1 - index / 5,
        prefillMs: 1000,
        attentionMs: 500,
        layers: [0, 1].map((layer) => ({
          strategy: 'selected',
          retainedMass: layer === 0 ? null : 0.9,
          tilesRead: 0.5,
          attentionMs: 250,
          ...(heads && {
            heads: [0.8, 0.9].map((mass) => ({
              strategy: 'selected',
              retainedMass: mass,
              tilesRead: 0.4,
            })),
          }),
        })),
      })),
    },
    retrieval: {
      passkey: {
        scores: names.map((attention, index) => ({
          attention,
          found: wilson(4 - index, 4),
          foundOfDense: wilson(4 - index, 4),
          agreement: wilson(3, 4),
        })),
        answers: names.flatMap((attention) =>
          [0.1, 0.9].flatMap((depth) =>
            [1000, 2000].map((length) => ({
              attention,
              length,
              depth,
              promptTokens: length + 5,
              expected: '12345',
              text: '12345',
              found: depth < 0.5,
              retainedMass: 1,
              tilesRead: 1,
              prefillMs: length,
            })),
          ),
        ),
      },
    },
  };
}

describe('the report', () => {
  test('is one page with the figures and a plot for each, and nothing from outside', async () => {
    const html = await renderReport(result(['dense', 'fast'], true));
    const { document } = parseHTML(html);
    const titles = [...document.querySelectorAll('figure h2')].map(
      ({ textContent }) => textContent,
    );
    expect(titles).toEqual([
      'Accuracy against budget',
      'Length against time',
      'Answers found',
      'Found by length and depth: passkey',
      'Mass kept by layer',
      'Tiles read by layer',
      'Time in attention by layer',
      'Mass kept by layer and head',
      'Tiles read by layer and head',
    ]);
    const plots = [...document.querySelectorAll('figure svg')];
    expect(plots).toHaveLength(titles.length);
    for (const plot of plots) {
      const marks = plot.querySelectorAll('.mark-symbol path, .mark-rect path, .mark-line path');
      expect(marks.length).toBeGreaterThan(0);
      expect(plot.outerHTML).not.toMatch(/NaN|undefined|Infinity/);
    }
    expect(document.querySelectorAll('table')).toHaveLength(3);
    expect(document.body.textContent).toContain('1.0100 (0.9999–1.0201)');
    expect(document.body.textContent).toContain('3 of 4');
    expect(document.querySelectorAll('script, link, img, iframe')).toHaveLength(0);
    expect(html.replaceAll('http://www.w3.org/', '')).not.toMatch(/https?:\/\/|@import|url\((?!#)/);
  });

  test('shows what there is', async () => {
    const { prediction: _, ...rest } = result(['dense', 'fast'], false);
    const { document } = parseHTML(await renderReport(rest));
    expect(document.querySelectorAll('figure svg')).toHaveLength(3);
    const { retrieval: __, ...predicted } = result(['dense', 'fast'], false);
    const second = parseHTML(await renderReport({ ...predicted, retrieval: {} }));
    expect(second.document.querySelectorAll('figure svg')).toHaveLength(4);
  });

  test('names are text, not markup', async () => {
    const html = await renderReport(result(['dense', '<img src=x onerror="boom()">&'], false));
    const { document } = parseHTML(html);
    expect(document.querySelectorAll('img')).toHaveLength(0);
    expect(document.body.textContent).toContain('<img src=x onerror="boom()">&');
  });
});
