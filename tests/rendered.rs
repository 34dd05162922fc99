//! Rendered files agree with the code.

#[test]
fn rendered_files_are_not_stale() {
    for file in muster::rendered::files() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(file.path);
        let found = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(found == file.text, "{} is stale; run `cargo xtask render`", file.path);
    }
}
