//! The file system as a value and on disk: a large context listed and matched, layers folded, selected from, packed, read,
//! unpacked and compared.

use builder_core::{
    context::Context,
    copy::{self, Ground, Item, Kind, Placement, Rules},
    layer::{
        read::{self, Limits, Visitor as _},
        write::{self, OpenContent, PackOptions},
    },
    oci::Compression,
    rootfs::{OverlayAttributes, Owners, RootMount, Rootfs},
    tree::{Change, Content, LayerIndex, SourceId, Timestamp, Tree, TreePath, text},
};
use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use std::{fmt::Write as _, fs, hint::black_box, io, num::NonZeroUsize, path::Path, time::Duration};

/// Fifty patterns of the kinds that ignore files have, ten of which bring something back.
fn patterns() -> String {
    let mut text = String::from("**/node_modules\n**/*.o\n.git\ntarget/\n*.log\n**/__pycache__/**\nbuild/**/out\n**/.cache\n");
    for number in 0..32 {
        let _ = writeln!(text, "**/dir-{number}7/file-{number}.*\nsrc-{number}/**/generated-?[0-9].txt");
    }
    text.lines()
        .take(40)
        .map(str::to_owned)
        .chain((0..10).map(|number| format!("!**/keep-{number}")))
        .collect::<Vec<_>>()
        .join("\n")
}

/// A thousand directories, three deep, with a hundred files each.
fn make_context(root: &Path) -> io::Result<()> {
    for directory in 0..1000 {
        let path = root.join(format!("src-{}/dir-{}/part-{directory}", directory / 100, directory / 10));
        fs::create_dir_all(&path)?;
        for file in 0..100 {
            fs::File::create(path.join(format!("file-{file}.{}", if file % 10 == 0 { "o" } else { "c" })))?;
        }
    }
    Ok(())
}

/// A layer of so many directories with 100 small files each.
fn layer(number: usize, directories: usize) -> Vec<Change> {
    let mut lines = String::from("usr/ 0755 0:0\n");
    for directory in 0..directories {
        let _ = writeln!(lines, "usr/d{directory:03}/ 0755 0:0");
        for file in 0..100 {
            let _ =
                writeln!(lines, "usr/d{directory:03}/f{file:03} 0644 0:0 \"layer {number}, directory {directory}, file {file}\"");
        }
    }
    text::parse(&lines).expect("records of our own")
}

/// Every content is inline.
struct Nothing;

impl OpenContent for Nothing {
    fn open(&self, _: &Content) -> io::Result<Box<dyn io::Read + Send + '_>> {
        Err(io::ErrorKind::NotFound.into())
    }
}

fn context(criterion: &mut Criterion) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    make_context(directory.path()).expect("a temporary directory can be filled");
    let text = patterns();
    let mut group = criterion.benchmark_group("a context of 100,000 files with 50 patterns");
    group.sample_size(10);
    group.bench_function("list and match", |bencher| {
        bencher.iter(|| {
            let rules = Rules::parse(&text).expect("patterns of our own");
            let context = Context::directory(directory.path(), rules, SourceId(0)).expect("the directory exists");
            copy::select(&context, b".", Kind::Contents, &Rules::default()).expect("it can be read")
        });
    });
    let everything = Context::directory(directory.path(), Rules::default(), SourceId(0)).expect("the directory exists");
    let selections = copy::select(&everything, b".", Kind::Contents, &Rules::default()).expect("it can be read");
    let paths: Vec<TreePath> = selections[0].entries.iter().map(|selected| selected.path.clone()).collect();
    group.bench_function("match alone", |bencher| {
        bencher.iter(|| {
            let rules = Rules::parse(&text).expect("patterns of our own");
            let mut above = vec![(TreePath::root(), rules.root())];
            paths
                .iter()
                .skip(1)
                .filter(|path| {
                    while above.last().is_some_and(|(directory, _)| path.below(directory).is_none()) {
                        above.pop();
                    }
                    let verdict = rules.judge(path, &above[above.len() - 1].1);
                    let excluded = verdict.excluded;
                    above.push(((*path).clone(), verdict));
                    excluded
                })
                .count()
        });
    });
    group.finish();
}

fn values(criterion: &mut Criterion) {
    let layers: Vec<Vec<Change>> = (0..5).map(|number| layer(number, 100)).collect();
    let mut tree = Tree::new();
    for changes in &layers {
        tree.apply(changes);
    }
    let mut group = criterion.benchmark_group("layers of 10,000 files");
    group.sample_size(20);
    group.bench_function("fold five", |bencher| {
        bencher.iter(|| {
            let mut tree = Tree::new();
            for changes in &layers {
                tree.apply(black_box(changes));
            }
            tree
        });
    });
    group.bench_function("select by a pattern", |bencher| {
        bencher.iter(|| copy::select(&tree, b"usr/d0*/f?5*", Kind::Contents, &Rules::default()));
    });
    let selections = copy::select(&tree, b"usr", Kind::Contents, &Rules::default()).expect("it is there");
    let items: Vec<Item> = selections.into_iter().map(Item::Files).collect();
    let placement = Placement {
        destination: b"/opt/copy/".to_vec(),
        workdir: TreePath::root(),
        owner: Some((1, 2)),
        chmod: None,
        ground: Ground::Tree,
        now: Timestamp::default(),
    };
    group.bench_function("place", |bencher| bencher.iter(|| copy::place(&tree, black_box(&items), &placement)));
    let options = PackOptions { compression: Compression::Gzip, level: None, mtime_limit: None, threads: NonZeroUsize::MIN };
    let pack = || {
        let mut blob = Vec::new();
        let packed = write::pack(&layers[0], &Nothing, &options, &mut blob).expect("contents are inline");
        (packed, blob)
    };
    group.bench_function("pack", |bencher| bencher.iter(pack));
    let (packed, blob) = pack();
    group.bench_function("read", |bencher| bencher.iter(|| read::index(&blob[..], packed.diff_id, &Limits::default())));
    group.finish();
}

/// Unpacks a layer into a plain directory below `state`.
fn unpacked(state: &Path, index: &LayerIndex) -> Rootfs {
    let mut rootfs = Rootfs::new(state, None, Owners { storable_ids: u32::MAX }).expect("a directory can be made");
    let mut unpacker = rootfs.unpacker(&Tree::new(), index).expect("the root is empty");
    for change in &index.changes {
        let mut bytes: &[u8] = match change {
            Change::Put { entry, .. } => match entry.file().map(|file| &file.content) {
                Some(Content::Inline(bytes)) => bytes,
                _ => &[],
            },
            _ => &[],
        };
        unpacker.visit(change, &mut bytes).expect("the disk takes it");
    }
    let finished = unpacker.finish().expect("the disk takes it");
    rootfs.push(finished);
    rootfs
}

fn disk(criterion: &mut Criterion) {
    let state = tempfile::tempdir().expect("a temporary directory");
    let index = LayerIndex { changes: layer(0, 100) };
    let mut tree = Tree::new();
    tree.apply(&index.changes);
    let mut group = criterion.benchmark_group("a root of 10,000 files");
    group.sample_size(10);
    group.bench_function("unpack", |bencher| bencher.iter_with_large_drop(|| unpacked(state.path(), &index)));
    let overlay = Some(OverlayAttributes::User);
    let mut rootfs = Rootfs::new(state.path(), overlay, Owners::REAL).expect("a directory can be made");
    group.bench_function("what a step wrote, in an overlay", |bencher| {
        bencher.iter_batched(
            || {
                let RootMount::Overlay { upper, .. } = rootfs.begin_step(&tree).expect("a directory can be made") else {
                    panic!("an overlay was asked for")
                };
                for directory in 0..100 {
                    let path = upper.join(format!("new-{directory}"));
                    fs::create_dir(&path).expect("a directory can be made");
                    (0..100).for_each(|file| fs::write(path.join(file.to_string()), "new").expect("the disk takes it"));
                }
                std::mem::replace(&mut rootfs, Rootfs::new(state.path(), overlay, Owners::REAL).expect("a directory can be made"))
            },
            |mut rootfs| {
                let changed = rootfs.end_step(&tree, SourceId(1), None).expect("it can be read").changes.len();
                (rootfs, changed)
            },
            BatchSize::PerIteration,
        );
    });
    group.finish();
    let index = LayerIndex { changes: layer(0, 1000) };
    let mut tree = Tree::new();
    tree.apply(&index.changes);
    let mut rootfs = unpacked(state.path(), &index);
    let RootMount::Directory { path } = rootfs.begin_step(&tree).expect("it is unpacked") else { panic!("a plain directory") };
    let mut group = criterion.benchmark_group("a root of 100,000 files");
    group.sample_size(10);
    group.bench_function("what changed, in a plain directory: processor time", |bencher| {
        bencher.iter_custom(|iterations| {
            let mut spent = Duration::ZERO;
            for iteration in 0..iterations {
                write_a_few(&path, iteration);
                let before = processor_time();
                black_box(rootfs.end_step(&tree, SourceId(1), None).expect("it can be read"));
                spent += processor_time().saturating_sub(before);
            }
            spent
        });
    });
    group.bench_function("what changed, in an overlay", |bencher| {
        bencher.iter_batched(
            || {
                let mut rootfs = Rootfs::new(state.path(), overlay, Owners::REAL).expect("a directory can be made");
                let RootMount::Overlay { upper, .. } = rootfs.begin_step(&tree).expect("a directory can be made") else {
                    panic!("an overlay was asked for")
                };
                write_a_few(&upper, 1);
                rootfs
            },
            |mut rootfs| {
                let changed = rootfs.end_step(&tree, SourceId(1), None).expect("it can be read").changes.len();
                (rootfs, changed)
            },
            BatchSize::PerIteration,
        );
    });
    group.finish();
}

/// What this thread has used, to the nanosecond: other work on the machine does not count.
fn processor_time() -> Duration {
    let text = fs::read_to_string("/proc/thread-self/schedstat").expect("a kernel that counts");
    let nanoseconds = text.split(' ').next().and_then(|nanoseconds| nanoseconds.parse().ok());
    Duration::from_nanos(nanoseconds.expect("a number comes first"))
}

/// Replaces one file in each of ten directories.
fn write_a_few(root: &Path, count: u64) {
    for directory in 0..10 {
        let directory = root.join(format!("usr/d{directory:03}"));
        fs::create_dir_all(&directory).expect("a directory can be made");
        fs::write(directory.join("f007"), format!("written {count} times")).expect("the disk takes it");
    }
}

criterion_group!(files, context, values, disk);
criterion_main!(files);
