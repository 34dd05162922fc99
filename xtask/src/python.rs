//! What the examples in Python and the tests' mail server need, in a folder of its own under
//! `target`.

use anyhow::bail;

use crate::servers::succeeds;

/// The libraries, as the examples' own documentation names them.
const LIBRARIES: [&str; 3] = ["aiosmtpd==1.4.6", "pika==1.4.4", "standardwebhooks==1.1.0"];

/// Installs Python and the libraries if they are missing, or says what to do.
pub(crate) fn install() -> anyhow::Result<()> {
    let folder = crate::root().join("target/python");
    let missing: Vec<_> = LIBRARIES.into_iter().filter(|library| !folder.join(library).exists()).collect();
    if (!missing.is_empty() || !succeeds("python3 --version")) && !succeeds("python3 -m pip --version") {
        println!("Python: installing");
        // This works on Debian as root only. Elsewhere the next step fails and says so.
        succeeds("apt-get update -q && apt-get install -qy --no-install-recommends python3 python3-pip");
    }
    for library in missing {
        println!("Python: installing {library}");
        let pip = format!("python3 -m pip install --upgrade --target '{}' {library}", folder.display());
        if !succeeds(&pip) {
            bail!(
                "`{pip}` fails; it needs Python and pip (on Debian: sudo apt-get install python3 python3-pip)"
            );
        }
        std::fs::write(folder.join(library), "")?;
    }
    println!("Python: ready");
    Ok(())
}
