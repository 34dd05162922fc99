//! Writes the files that are rendered from the code. `cargo xtask render` runs it.

use std::path::Path;

use anyhow::Context as _;

fn main() -> anyhow::Result<()> {
    for file in muster::rendered::files() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file.path);
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        std::fs::write(&path, file.text).with_context(|| format!("write {}", path.display()))?;
        println!("wrote {}", file.path);
    }
    Ok(())
}
