//! What the examples in JavaScript need outside a browser, in a folder of its own under `target`.

use anyhow::bail;

use crate::servers::succeeds;

/// `EventSource`, which browsers have and Node.js has not.
const LIBRARY: &str = "eventsource@4.1.1";

/// Installs Node.js and the library if they are missing, or says what to do.
pub(crate) fn install() -> anyhow::Result<()> {
    let folder = crate::root().join("target/node");
    if !folder.join(LIBRARY).exists() || !succeeds("node --version") {
        if !succeeds("npm --version") {
            println!("Node.js: installing");
            // This works on Debian as root only. Elsewhere the next step fails and says so.
            succeeds("apt-get update -q && apt-get install -qy --no-install-recommends nodejs npm");
        }
        println!("Node.js: installing {LIBRARY}");
        let npm =
            format!("npm install --no-audit --no-fund --silent --prefix '{}' {LIBRARY}", folder.display());
        if !succeeds(&npm) {
            bail!("`{npm}` fails; it needs Node.js 20 or later and npm");
        }
        std::fs::write(folder.join(LIBRARY), "")?;
    }
    println!("Node.js: ready");
    Ok(())
}
