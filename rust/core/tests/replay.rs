//! The fuzz targets over their seeds: what was found once is looked for in every run.

use std::path::PathBuf;

#[path = "../../fuzz/src/lib.rs"]
mod targets;

#[test]
fn seeds_find_nothing() {
    let seeds = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../fuzz/seeds");
    for &(name, run) in targets::TARGETS {
        let mut files: Vec<PathBuf> =
            std::fs::read_dir(seeds.join(name)).unwrap().map(|file| file.unwrap().path()).collect();
        assert!(files.len() >= 3, "{name} has seeds");
        files.sort();
        for file in files {
            println!("{}", file.display());
            run(&std::fs::read(file).unwrap());
        }
    }
}
