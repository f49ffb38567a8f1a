//! Folds functions of equal code into one when the release binary is linked. Rust's own linker for this target can; another
//! one may not know the words, so nothing is asked of it. Rust promises no function an address of its own.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let is = |name: &str, value: &str| std::env::var(name).is_ok_and(|found| found == value);
    if is("PROFILE", "release") && is("TARGET", "x86_64-unknown-linux-gnu") {
        println!("cargo::rustc-link-arg-bin=fnode=-Wl,--icf=all");
    }
}
