#!/bin/sh
# Compiles this crate and its tests for AArch64 with an old compiler and runs them under an emulator: on machines
# where rustup has no AArch64 target (elsewhere: cargo test --target aarch64-unknown-linux-gnu).
#
#   NEON_ROOT=<folder with usr/, see below> crates/simd/neon-check/run.sh
#
# The folder holds Debian 12's packages, unpacked with `dpkg -x`: rustc, libstd-rust-1.63, libllvm14,
# qemu-user-static, gcc-12-aarch64-linux-gnu, binutils-aarch64-linux-gnu, and of arm64: libstd-rust-dev,
# libstd-rust-1.63, libc6, libc6-dev, libgcc-s1, libgcc-12-dev. Without NEON_ROOT they are downloaded.
# The sources are copied; what that compiler does not know yet is taken from the files beside this script.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

root=${NEON_ROOT:-}
if [ -z "$root" ]; then
    root=$work/root
    mkdir -p "$work/state/lists/partial" "$work/cache/archives/partial" "$work/packages" "$root"
    touch "$work/state/status"
    cat > "$work/apt.conf" <<CONF
APT::Architectures { "amd64"; "arm64"; };
APT::Sandbox::User "root";
Dir::State "$work/state";
Dir::State::status "$work/state/status";
Dir::Cache "$work/cache";
CONF
    export APT_CONFIG="$work/apt.conf"
    apt-get update -q
    (cd "$work/packages" && apt-get download -q rustc libstd-rust-1.63 libllvm14 qemu-user-static \
        gcc-12-aarch64-linux-gnu binutils-aarch64-linux-gnu libstd-rust-dev:arm64 libstd-rust-1.63:arm64 \
        libc6:arm64 libc6-dev:arm64 libgcc-s1:arm64 libgcc-12-dev:arm64)
    for package in "$work"/packages/*.deb; do dpkg -x "$package" "$root"; done
fi

compile() {
    RUSTC_BOOTSTRAP=1 LD_LIBRARY_PATH=$root/usr/lib/x86_64-linux-gnu "$root/usr/bin/rustc" --sysroot "$root/usr" --edition 2021 \
        --target aarch64-unknown-linux-gnu -C opt-level=2 -C linker="$root/usr/bin/aarch64-linux-gnu-gcc-12" \
        -C link-arg=-B"$root/usr/lib/gcc/aarch64-linux-gnu/12" -C link-arg=-B"$root/usr/lib/aarch64-linux-gnu" \
        -C link-arg=--sysroot="$root" --cap-lints allow \
        -Zcrate-attr="feature(let_chains, lint_reasons, mixed_integer_ops, once_cell)" -L "$work" --out-dir "$work" "$@"
}

cp -r "$here/../src" "$here/../tests" "$work/"
find "$work/src" "$work/tests" -name '*.rs' | while read -r file; do echo 'use crate::newer::*;' >> "$file"; done
cp "$here/newer.rs" "$work/src/"
cp "$here/newer.rs" "$work/tests/"
echo 'mod newer;' >> "$work/src/lib.rs"

compile --crate-type rlib --crate-name half "$here/half.rs"
compile --crate-type rlib --crate-name iceformer_simd --extern half "$work/src/lib.rs"
for test in "$here"/../tests/*.rs; do
    name=$(basename "$test" .rs)
    echo 'mod newer;' >> "$work/tests/$name.rs"
    compile --test --crate-name "$name" --extern half --extern iceformer_simd "$work/tests/$name.rs"
    "$root/usr/bin/qemu-aarch64-static" -L "$root" "$work/$name"
done
