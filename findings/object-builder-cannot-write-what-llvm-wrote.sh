#!/usr/bin/env bash
# The crate object 0.39.1, `object::build::elf::Builder`, with an object file as LLVM writes it.
#
# Guess: what `Builder::read` takes, unchanged, `Builder::write` can write.
# Seen: LLVM puts the names of sections and those of symbols into one table, `.strtab`; the builder reads it as that of
# the symbols, and then refuses to write, with ".shstrtab section is needed but not present". With a section of the
# kind `SectionString` added by hand it writes, and what it wrote has the same sections and symbols. Objects by gcc and
# binutils have two tables, so that a test with one of those does not show it; all objects of rustc, clang and
# bpf-linker have one.
#
# Needs bash, cargo and rustc; builds in a temporary folder, which it removes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
mkdir src
cat > Cargo.toml <<'TOML'
[package]
name = "try"
version = "0.0.0"
edition = "2021"
[dependencies]
object = { version = "=0.39.1", default-features = false, features = ["build", "std"] }
[workspace]
TOML
cat > src/main.rs <<'RUST'
use object::build::elf::{Builder, SectionData};
use object::{Object, ObjectSection, ObjectSymbol};

fn names(bytes: &[u8]) -> (Vec<String>, Vec<String>) {
    let file = object::File::parse(bytes).expect("an object file");
    let of = |name: Result<&str, _>| name.unwrap_or("?").to_owned();
    let mut sections: Vec<String> = file.sections().map(|section| of(section.name())).filter(|name| !name.ends_with("strtab")).collect();
    let mut symbols: Vec<String> = file.symbols().map(|symbol| of(symbol.name())).collect();
    sections.sort();
    symbols.sort();
    (sections, symbols)
}

fn main() {
    let bytes = std::fs::read("llvm.o").expect("rustc wrote it");
    let builder = Builder::read(&*bytes).expect("it is read");
    let refused = builder.write(&mut Vec::new()).expect_err("the behaviour changed: it is written").to_string();
    println!("as it was read: {refused}");
    assert_eq!(refused, ".shstrtab section is needed but not present");
    let mut builder = Builder::read(&*bytes).expect("it is read");
    let table = builder.sections.add();
    table.name = ".shstrtab".into();
    table.sh_type = object::elf::SHT_STRTAB;
    table.sh_addralign = 1;
    table.data = SectionData::SectionString;
    let mut written = Vec::new();
    builder.write(&mut written).expect("with a table of its own it is written");
    assert_eq!(names(&bytes), names(&written));
    println!("with a table for sections' names: {} bytes, the same sections and symbols", written.len());
}
RUST
echo 'pub fn add(a: u32, b: u32) -> u32 { a + b }' > llvm.rs
rustc --crate-type lib --emit obj -o llvm.o llvm.rs
cargo run --quiet
echo "as stated"
