//! What is in a plan, and why there is none.

use super::*;

/// What the user said: `[--target=name] [--platform=p] [--build-context=name] [NAME=value]`.
fn options(words: &str) -> Options {
    let mut options = Options {
        build_args: BTreeMap::new(),
        target: None,
        target_platform: Platform::linux_amd64(),
        build_platform: Platform::linux_amd64(),
        contexts: BTreeSet::new(),
    };
    for word in words.split_whitespace() {
        match word.split_once('=').unwrap() {
            ("--target", name) => options.target = Some(name.to_owned()),
            ("--platform", platform) => options.target_platform = platform.parse().unwrap(),
            ("--build-context", name) => drop(options.contexts.insert(name.to_owned())),
            (name, value) => drop(options.build_args.insert(name.to_owned(), value.to_owned())),
        }
    }
    options
}

fn planned(text: &str, words: &str) -> Result<Plan, Vec<ParseError>> {
    plan(&dockerfile::parse(text).unwrap(), &options(words))
}

/// A stage in words: `2: stage 1, needs 0 1`.
fn told(index: usize, stage: &PlannedStage) -> String {
    let base = match &stage.base {
        Source::Scratch => "scratch".to_owned(),
        Source::Stage(parent) => format!("stage {parent}"),
        Source::Image(name) => format!("image {name}"),
        Source::Context(name) => format!("context {name}"),
    };
    let needs: Vec<String> = stage.needs.iter().map(usize::to_string).collect();
    let needs = if needs.is_empty() { String::new() } else { format!(", needs {}", needs.join(" ")) };
    let platform = stage.platform.to_string();
    let platform = if platform == "linux/amd64" { String::new() } else { format!(", for {platform}") };
    format!("{index}: {base}{needs}{platform}")
}

/// The stages of the plan in words, the target marked by a `*`.
fn stages(text: &str, words: &str) -> Vec<String> {
    let plan = planned(text, words).unwrap_or_else(|errors| panic!("{text}: {errors:?}"));
    let mark = |index| if index == plan.target { "*" } else { "" };
    plan.stages.iter().map(|(index, stage)| format!("{}{}", mark(*index), told(*index, stage))).collect()
}

/// The errors: `line 3: message (hint)`.
fn errors(text: &str, words: &str) -> Vec<String> {
    let errors = planned(text, words).expect_err(text);
    let told = |error: ParseError| {
        let hint = error.hint.map(|hint| format!(" ({hint})")).unwrap_or_default();
        format!("line {}: {}{hint}", error.position.first_line, error.message)
    };
    errors.into_iter().map(told).collect()
}

#[test]
fn only_what_the_target_needs_is_planned() {
    let text = "FROM a AS needed\nFROM no.invalid/such:image AS nobody\nRUN exit 1\nFROM b AS mid\nCOPY --from=needed /f /f\nFROM scratch\nCOPY --from=mid / /\n";
    for (words, expected) in [
        ("", &["0: image a", "2: image b, needs 0", "*3: scratch, needs 2"][..]),
        ("--target=mid", &["0: image a", "*2: image b, needs 0"]),
        ("--target=MID", &["0: image a", "*2: image b, needs 0"]),
        ("--target=needed", &["*0: image a"]),
    ] {
        assert_eq!(stages(text, words), expected, "{words}");
    }
}

#[test]
fn stages_are_found_by_name_and_by_number() {
    for (text, expected) in [
        ("FROM a AS Build\nFROM build\nCOPY --from=bUILD /f /f\n", &["0: image a", "*1: stage 0, needs 0"][..]),
        ("FROM a\nFROM b\nCOPY --from=0 /f /f\n", &["0: image a", "*1: image b, needs 0"]),
        ("FROM a AS x\nFROM b\nRUN --mount=from=x,target=/m true\n", &["0: image a", "*1: image b, needs 0"]),
        ("FROM a AS x\nFROM b\nRUN --mount=type=cache,from=x,target=/m true\n", &["0: image a", "*1: image b, needs 0"]),
        // The later of one name counts.
        ("FROM a AS twin\nFROM b AS twin\nFROM scratch\nCOPY --from=twin /f /f\n", &["1: image b", "*2: scratch, needs 1"]),
        // A stage hides an image of its name, but not from itself and those before it.
        ("FROM busybox AS alpine\nFROM alpine\n", &["0: image busybox", "*1: stage 0, needs 0"]),
        ("FROM alpine AS alpine\nFROM alpine AS last\n", &["0: image alpine", "*1: stage 0, needs 0"]),
        ("FROM scratch\nCOPY --from=alpine:3 /f /f\nCOPY --from=scratch / /\n", &["*0: scratch"]),
        // FROM knows no numbers.
        ("FROM a\nFROM 0\n", &["*1: image 0"]),
    ] {
        assert_eq!(stages(text, ""), expected, "{text}");
    }
}

#[test]
fn a_named_context_hides_stages_and_images_but_not_scratch() {
    let text = "FROM a AS b\nFROM a\nCOPY --from=b / /b\nCOPY --from=docker.io/library/c / /c\n";
    assert_eq!(stages(text, "--build-context=b"), ["*1: image a"]);
    assert_eq!(stages(text, "--build-context=a"), ["0: context a", "*1: context a, needs 0"]);
    assert_eq!(stages("FROM b:latest\n", "--build-context=b"), ["*0: context b"]);
    assert_eq!(stages("FROM b:1\n", "--build-context=b"), ["*0: image b:1"]);
    assert_eq!(stages("FROM scratch\n", "--build-context=scratch"), ["*0: scratch"]);
    let dockerfile = dockerfile::parse(text).unwrap();
    let word = |text: &str| Word { text: text.to_owned(), position: Position::default() };
    let contexts = BTreeSet::from(["b".to_owned(), "c".to_owned()]);
    for (name, expected) in [("B", "b"), ("c:latest", "c"), ("docker.io/library/c", "c")] {
        assert_eq!(source(&dockerfile, 1, &word(name), &contexts), Ok(Source::Context(expected.to_owned())), "{name}");
    }
}

#[test]
fn from_sees_the_arguments_before_it_and_the_platforms() {
    for (text, words, expected) in [
        ("ARG I\nARG T=1\nFROM ${I:-busybox}:$T\n", "", "*0: image busybox:1"),
        ("ARG I\nARG T=1\nFROM ${I:-busybox}:$T\n", "I=alpine T=2", "*0: image alpine:2"),
        ("ARG A=x B=${A}y\nFROM $B\n", "", "*0: image xy"),
        ("ARG A=x B=${A}y\nFROM $B\n", "A=", "*0: image y"),
        ("FROM a-$TARGETARCH\n", "--platform=linux/arm64", "*0: image a-arm64, for linux/arm64"),
        ("FROM --platform=$BUILDPLATFORM a\n", "--platform=linux/arm64", "*0: image a"),
        ("FROM --platform=$TARGETPLATFORM a\n", "--platform=linux/arm/v7", "*0: image a, for linux/arm/v7"),
        ("ARG TARGETARCH=own\nFROM a-$TARGETARCH\n", "", "*0: image a-own"),
        ("FROM a-$TARGETARCH\n", "TARGETARCH=given", "*0: image a-given"),
        ("FROM a-$TARGETSTAGE\n", "", "*0: image a-default"),
        ("FROM a-$TARGETSTAGE AS B\n", "", "*0: image a-b"),
        ("FROM a-$TARGETSTAGE AS b\n", "--target=b", "*0: image a-b"),
        ("FROM --platform=arm64 a\n", "", "*0: image a, for linux/arm64"),
        ("FROM --platform=linux a\n", "", "*0: image a"),
        // The build argument of a name that no ARG declares is not seen.
        ("FROM a$X\n", "X=1", "*0: image a"),
    ] {
        assert_eq!(stages(text, words), [expected], "{text} {words}");
    }
    let plan = planned("ARG A=1\nARG B\nARG C\nFROM a\n", "C=c D=d").unwrap();
    let names: Vec<String> = plan.global_args.iter().map(|(name, value)| format!("{name}={value}")).collect();
    assert_eq!(names, ["A=1", "C=c"]);
}

#[test]
fn a_stage_is_for_what_its_parent_is_for() {
    let text = "FROM --platform=linux/arm64 a AS b\nFROM b\n";
    assert_eq!(stages(text, ""), ["0: image a, for linux/arm64", "*1: stage 0, needs 0, for linux/arm64"]);
    assert_eq!(stages("FROM --platform=linux/arm64 scratch\n", ""), ["*0: scratch"]);
}

#[test]
fn triggers_of_the_parent_add_what_they_need() {
    let text = "FROM a AS tools\nFROM b AS template\nONBUILD COPY --from=tools /t /t\nFROM template AS child\nFROM child\n";
    assert_eq!(
        stages(text, ""),
        ["0: image a", "1: image b", "2: stage 1, needs 0 1", "*3: stage 2, needs 2"],
        "they run in the child and not in its child"
    );
    assert_eq!(stages(text, "--target=template"), ["*1: image b"]);
}

#[test]
fn triggers_of_an_image_join_the_plan_when_they_are_known() {
    let text = "FROM a AS tools\nFROM b AS more\nCOPY --from=tools /t /t\nFROM onbuild\n";
    let dockerfile = dockerfile::parse(text).unwrap();
    let before = plan(&dockerfile, &options("")).unwrap();
    assert_eq!(before.stages.keys().copied().collect::<Vec<_>>(), [2]);
    let trigger = |text: &str| dockerfile::parse_trigger(text).unwrap();
    let triggers = [trigger("ENV A=1"), trigger("COPY --from=more /t /t"), trigger("COPY --from=some/image /x /x")];
    let after = before.clone().with_triggers(&dockerfile, &options(""), 2, &triggers).unwrap();
    assert_eq!(after.stages.keys().copied().collect::<Vec<_>>(), [0, 1, 2]);
    assert_eq!(after.stages[&2].needs, BTreeSet::from([1]));
    let own = before.with_triggers(&dockerfile, &options(""), 2, &[trigger("COPY --from=2 /t /t")]).unwrap_err();
    assert_eq!(own[0].message, "--from=2 is the stage itself");
}

#[test]
fn what_cannot_be_planned_is_told_with_its_line_and_a_remedy() {
    let above = "only stages above this one can be used";
    for (text, words, expected) in [
        (
            "FROM scratch AS one\n",
            "--target=tow",
            "line 1: target \"tow\" not found: no stage has that name (the stages are one)".to_owned(),
        ),
        (
            "FROM scratch\n",
            "--target=0",
            "line 1: target \"0\" not found: no stage has that name (no stage has a name; give one with FROM … AS name)".to_owned(),
        ),
        (
            "ARG BASE\nFROM ${BASE}\n",
            "",
            "line 2: the base name is empty: ${BASE} expands to nothing (give a value with --build-arg BASE=…, or a default with ARG BASE=… before the first FROM)".to_owned(),
        ),
        (
            "FROM --platform=$P a\n",
            "",
            "line 1: the platform is empty: $P expands to nothing (give a value with --build-arg P=…, or a default with ARG P=… before the first FROM)".to_owned(),
        ),
        ("FROM ${B:?base}\n", "", "line 1: B: base".to_owned()),
        ("ARG A=${B^}\nFROM a\n", "", "line 1: unsupported modifier (^) in substitution of ${B}".to_owned()),
        (
            "FROM --platform=pdp11 a\n",
            "",
            "line 1: \"pdp11\" is no platform: expected os/architecture or os/architecture/variant, as in linux/arm64".to_owned(),
        ),
        (
            "FROM a AS Second\nFROM SECOND\n",
            "",
            "line 2: invalid image name \"SECOND\": the repository \"SECOND\" may hold only a-z, 0-9 and single separators . _ - / (it must be lower case) (FROM finds a stage by its name in lower case: FROM second)".to_owned(),
        ),
        (
            "FROM scratch AS me\nCOPY f /f\nCOPY --from=me \\\n  /f /g\n",
            "",
            format!("line 3: --from=me is the stage itself: a stage cannot copy from its own result ({above})"),
        ),
        ("FROM scratch AS first\nCOPY --from=second /f /f\nFROM first AS second\n", "", format!("line 2: --from=second is a later stage (line 3) ({above})")),
        (
            "FROM a\nRUN \\\n  --mount=from=0,target=/m true\n",
            "",
            "line 2: --from=0 is the stage itself (this is stage 0: stages are counted from 0, and only those above can be used)".to_owned(),
        ),
        (
            "FROM a\nCOPY --from=7 / /\n",
            "",
            "line 2: --from=7 is no stage: there are 1 (this is stage 0: stages are counted from 0, and only those above can be used)".to_owned(),
        ),
        (
            "FROM a AS b\nFROM c\nCOPY --from=B@d / /\n",
            "",
            "line 3: --from=B@d is no stage, and no image either: invalid image name \"B@d\" (the stages are b)".to_owned(),
        ),
    ] {
        assert_eq!(errors(text, words), [expected], "{text}");
    }
}

#[test]
fn every_from_counts_but_only_the_needed_from_options() {
    let text = "FROM $A\nFROM B\nFROM c AS c\nCOPY --from=c / /\nFROM scratch\n";
    let lines: Vec<String> = errors(text, "").iter().map(|error| error[..7].to_owned()).collect();
    assert_eq!(lines, ["line 1:", "line 2:"]);
    assert_eq!(stages("FROM c AS c\nCOPY --from=c / /\nFROM scratch\n", ""), ["*1: scratch"]);
}
