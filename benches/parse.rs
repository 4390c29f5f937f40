//! Parser, planner, evaluation and check of a generated Dockerfile of 2,000 lines.

use builder_core::{
    dockerfile::{self, Dockerfile},
    evaluate::{Action, Scope, State},
    lint::{self, Facts, Subject},
    oci::{ImageConfig, Platform},
    plan::{self, Options, Plan, Source},
};
use criterion::{Criterion, criterion_group, criterion_main};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    hint::black_box,
};

/// Twenty-three stages of eighty-eight lines, each built on the one before and copying from it.
fn generated() -> String {
    let mut text = String::from("ARG BASE=debian\nARG VERSION=1.2.3\n");
    for stage in 0..23 {
        let base = if stage == 0 { "${BASE}:${VERSION}".to_owned() } else { format!("stage-{}", stage - 1) };
        let _ = write!(text, "FROM {base} AS stage-{stage}\nARG VERSION TARGETARCH\nWORKDIR /srv/${{VERSION}}\n");
        for step in 0..12 {
            let _ = write!(
                text,
                "# step {step}\nARG A_{step}=\"${{VERSION%.*}}-{stage}\"\nENV E_{step}=${{A_{step}:-none}} LIST_{stage}_{step}=\"$PATH:/opt/{step}\"\n\
                 LABEL org.example.step-{step}=\"$E_{step} of stage {stage}\"\nRUN echo \"$A_{step}\" \\\n    && echo ${{E_{step}##*-}} > /out-{step}\n\
                 COPY --chown=$A_{step}:0 source-{step}/*.txt /srv/${{E_{step}}}/\n"
            );
        }
        let _ = writeln!(text, "EXPOSE {}", 8000 + stage);
    }
    text
}

fn options() -> Options {
    Options {
        build_args: BTreeMap::from([("VERSION".to_owned(), "2.0.1".to_owned())]),
        target: None,
        target_platform: Platform::linux_amd64(),
        build_platform: Platform::linux_amd64(),
        contexts: BTreeSet::new(),
    }
}

/// Evaluates every planned stage; gives how many actions there are to do.
fn evaluate(file: &Dockerfile, options: &Options, plan: &Plan) -> usize {
    let scope = Scope {
        escape: file.escape,
        build_args: &options.build_args,
        global_args: &plan.global_args,
        platform_args: &plan.platform_args,
    };
    let mut states: BTreeMap<usize, State> = BTreeMap::new();
    let mut actions = 0;
    for (index, stage) in &plan.stages {
        let mut state = match &stage.base {
            Source::Stage(parent) => states[parent].inherited(),
            _ => State::from_image(ImageConfig::default()),
        };
        for instruction in &file.stages[*index].instructions {
            let action = state.apply(instruction, scope).expect("the generated file has no mistake");
            actions += usize::from(action != Action::Metadata);
        }
        states.insert(*index, state);
    }
    actions
}

fn benches(criterion: &mut Criterion) {
    let (text, options) = (generated(), options());
    let file = dockerfile::parse(&text).expect("the generated file has no mistake");
    let planned = plan::plan(&file, &options).expect("the generated file has no mistake");
    let mut group = criterion.benchmark_group(format!("a Dockerfile of {} lines", text.lines().count()));
    group.bench_function("parse", |bencher| bencher.iter(|| dockerfile::parse(black_box(&text))));
    group.bench_function("plan", |bencher| bencher.iter(|| plan::plan(black_box(&file), &options)));
    group.bench_function("evaluate", |bencher| bencher.iter(|| evaluate(black_box(&file), &options, &planned)));
    let facts = Facts::default();
    let subject = Subject { dockerfile: &file, options: &options, plan: Some(&planned), facts: &facts };
    group.bench_function("lint", |bencher| bencher.iter(|| lint::lint(black_box(subject))));
    group.finish();
}

criterion_group!(parse, benches);
criterion_main!(parse);
