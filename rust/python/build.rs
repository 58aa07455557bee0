//! DIGEST: which sources a binary was built from, so that a stale one is noticed.
//!
//! FNV-1a of 64 bits over every source file's path and content, in the order of the paths; `tests/core/test_stub.py`
//! computes the same from the tree.

use std::path::{Path, PathBuf};

const CRATES: [&str; 4] = ["core", "lanes", "python", "simulator"];

fn main() {
    let rust = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut files = Vec::new();
    for name in CRATES {
        println!("cargo::rerun-if-changed={}", rust.join(name).display());
        collect(&rust, &PathBuf::from(name), &mut files);
    }
    files.sort();
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut eat = |bytes: &[u8]| {
        for &byte in bytes {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    };
    for file in files {
        eat(file.as_bytes());
        eat(&std::fs::read(rust.join(&file)).expect("a source file can be read"));
    }
    println!("cargo::rustc-env=SENDORA_DIGEST={hash:016x}");
}

/// Rust sources, manifests and what they include under a folder, as paths with "/".
fn collect(root: &Path, folder: &Path, files: &mut Vec<String>) {
    for entry in std::fs::read_dir(root.join(folder)).expect("a source folder can be listed") {
        let entry = entry.expect("a source folder can be listed");
        let path = folder.join(entry.file_name());
        if entry.path().is_dir() {
            collect(root, &path, files);
        } else if path
            .extension()
            .is_some_and(|extension| ["rs", "toml", "pem"].iter().any(|known| extension == *known))
        {
            files.push(path.iter().map(|part| part.to_string_lossy()).collect::<Vec<_>>().join("/"));
        }
    }
}
