//! Keys of steps: of a RUN with many variables, and of a COPY with many files.

use builder_core::{
    cache::KeyBuilder,
    copy::{self, Kind, Rules},
    tree::{Change, Content, ContentDigest, Entry, File, Node, Timestamp, Tree, TreePath},
};
use criterion::{Criterion, criterion_group, criterion_main};
use std::hint::black_box;

/// 100 directories with 1000 files each, all hashed before.
fn tree() -> Tree {
    let mut changes = Vec::new();
    for directory in 0..100 {
        let path = |name: &str| TreePath::clamp(format!("src/part-{directory}{name}"));
        changes.push(Change::put(path(""), Entry::directory(Timestamp::default())));
        for number in 0..1000 {
            let bytes = format!("file {number} of {directory}");
            let file = File {
                size_bytes: bytes.len() as u64,
                digest: Some(ContentDigest::of(bytes.as_bytes())),
                content: Content::Inline(bytes.into_bytes().into()),
            };
            let entry = Entry { node: Node::File(file), mode: 0o644, ..Entry::directory(Timestamp::default()) };
            changes.push(Change::put(path(&format!("/file-{number}.c")), entry));
        }
    }
    let mut tree = Tree::new();
    tree.apply(&changes);
    tree
}

fn benches(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("key");
    let variables: Vec<(String, String)> = (0..100).map(|number| (format!("NAME_{number}"), "value ".repeat(10))).collect();
    let command = "apt-get update && apt-get install --yes build-essential && make install".repeat(4);
    group.bench_function("RUN with 100 variables", |bencher| {
        bencher.iter(|| {
            let mut key = KeyBuilder::new("RUN", None);
            key.part("command", black_box(&command));
            for (name, value) in black_box(&variables) {
                key.part(name, value);
            }
            key.finish()
        });
    });
    group.sample_size(20);
    let tree = tree();
    let selections = copy::select(&tree, b"src", Kind::Contents, &Rules::default()).expect("it is there");
    group.bench_function("COPY of 100,000 files that are hashed already", |bencher| {
        bencher.iter(|| {
            let content = copy::content_digest(black_box(&selections)).expect("all files are hashed");
            KeyBuilder::new("COPY", None).part("content", content.as_bytes()).finish()
        });
    });
    group.bench_function("select 100,000 files of a tree", |bencher| {
        bencher.iter(|| copy::select(black_box(&tree), b"src", Kind::Contents, &Rules::default()));
    });
    group.finish();
}

criterion_group!(key, benches);
criterion_main!(key);
