//! Does nothing: Cargo considers build dependencies, which pin features here (see `Cargo.toml`), only where there is a build script.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
}
