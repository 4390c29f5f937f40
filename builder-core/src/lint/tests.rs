//! Each rule, by Dockerfiles that it finds something in and others that it leaves alone.

use super::*;
use crate::dockerfile;
use crate::oci::Platform;
use std::collections::BTreeSet;
use std::fmt::Write as _;

#[derive(Default)]
struct World<'a> {
    build_args: &'a [(&'a str, &'a str)],
    ignored: Option<&'a str>,
    base: Option<&'a str>,
}

fn report(text: &str, world: &World<'_>) -> Result<Report, ParseError> {
    let dockerfile = dockerfile::parse(text).unwrap_or_else(|errors| panic!("{text}: {errors:?}"));
    let options = plan::Options {
        build_args: world.build_args.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
        target: None,
        target_platform: Platform::linux_amd64(),
        build_platform: Platform::linux_amd64(),
        contexts: BTreeSet::new(),
    };
    let plan = plan::plan_all(&dockerfile, &options).ok();
    let base: Option<ImageConfig> = world.base.map(|base| serde_json::from_str(base).unwrap());
    let facts = Facts {
        bases: base.iter().flat_map(|base| (0..dockerfile.stages.len()).map(|index| (index, base.clone()))).collect(),
        ignored: world.ignored.map(|rules| Rules::parse(rules).unwrap()),
    };
    lint(Subject { dockerfile: &dockerfile, options: &options, plan: plan.as_ref(), facts: &facts })
}

/// `line Rule`, or `line Rule: message (hint)` where the claim is about words.
fn found(text: &str, world: &World<'_>) -> Vec<String> {
    let report = report(text, world).unwrap_or_else(|error| panic!("{text}: {error}"));
    let shown = |warning: &Warning| format!("{} {}", warning.position.first_line, warning.rule.name());
    report.warnings.iter().map(shown).collect()
}

fn expect(cases: &[(&str, &[&str])]) {
    for (text, expected) in cases {
        assert_eq!(found(text, &World::default()), *expected, "{text}");
    }
}

/// The config of a base that the corpus of these tests knows.
const BASE: &str = r#"{"os":"linux","architecture":"amd64","config":{"Env":["PATH=/bin","HOME=/root"],"WorkingDir":"/srv"},
    "rootfs":{"type":"layers","diff_ids":[]}}"#;

#[test]
fn every_rule_has_a_name_of_its_own_and_says_what_it_is_for() {
    let names: BTreeSet<&str> = Rule::ALL.iter().map(|rule| rule.name()).collect();
    assert_eq!(names.len(), 22);
    assert!(Rule::ALL.iter().all(|rule| rule.description().len() > 20));
    assert_eq!(Rule::ALL.iter().filter(|rule| rule.is_experimental()).count(), 1);
}

#[test]
fn stage_name_casing() {
    expect(&[("FROM scratch AS Base\n", &["1 StageNameCasing"]), ("FROM scratch AS base\nFROM scratch AS b-2_c.d\n", &[])]);
}

#[test]
fn from_as_casing() {
    expect(&[
        ("FROM scratch as base\n", &["1 FromAsCasing"]),
        ("from scratch AS base\n", &["1 FromAsCasing"]),
        ("FROM scratch AS base\n", &[]),
        ("from scratch as base\n", &[]),
        ("From scratch as base\nFROM scratch AS base2\n", &["1 ConsistentInstructionCasing"]),
    ]);
}

#[test]
fn no_empty_continuation() {
    expect(&[
        ("FROM scratch\nCOPY a \\\n\n/b\nCOPY c \\\n/d\n", &["2 NoEmptyContinuation"]),
        ("FROM scratch\nCOPY a \\\n# comment\n/b\n", &[]),
        ("ARG A=1 \\\n\n B=2\nFROM \\\n\n scratch\n", &["1 NoEmptyContinuation", "4 NoEmptyContinuation"]),
    ]);
    let report = report("FROM scratch\nCOPY a \\\n\n/b\n", &World::default()).unwrap();
    assert_eq!(report.warnings[0].focus.map(|focus| (focus.first_line, focus.span.start)), Some((3, 22)));
}

#[test]
fn consistent_instruction_casing() {
    expect(&[
        ("FROM scratch\ncopy a /b\nCOPY a /c\n", &["2 ConsistentInstructionCasing"]),
        ("from scratch\nCOPY a /b\ncopy a /c\n", &["2 ConsistentInstructionCasing"]),
        ("frOM scratch\nfrom scratch\n", &["1 ConsistentInstructionCasing"]),
        ("from scratch\nCOPY a /b\n", &["1 ConsistentInstructionCasing"]),
        ("from scratch\ncopy a /b\n", &[]),
        ("FROM scratch\nRUN <<'E'\nenv\nE\n", &[]),
    ]);
}

#[test]
fn duplicate_stage_name() {
    expect(&[
        ("FROM scratch AS b\nFROM scratch AS b\n", &["2 DuplicateStageName"]),
        ("FROM scratch AS b1\nFROM scratch AS b2\nFROM scratch\nFROM scratch\n", &[]),
    ]);
}

#[test]
fn reserved_stage_name() {
    expect(&[
        ("FROM scratch AS scratch\nFROM scratch AS context\n", &["1 ReservedStageName", "2 ReservedStageName"]),
        ("FROM scratch\nFROM scratch AS a\n", &[]),
    ]);
}

#[test]
fn json_args_recommended() {
    expect(&[
        ("FROM scratch\nCMD run me\n", &["2 JSONArgsRecommended"]),
        ("FROM scratch\nENTRYPOINT run me\n", &["2 JSONArgsRecommended"]),
        ("FROM scratch\nCMD [\"run\"]\nENTRYPOINT [\"run\"]\n", &[]),
        ("FROM scratch\nSHELL [\"/sh\", \"-c\"]\nCMD run me\n", &[]),
        ("FROM scratch AS a\nSHELL [\"/sh\"]\nFROM a\nENTRYPOINT run me\n", &[]),
        ("FROM scratch\nHEALTHCHECK CMD run me\nRUN run me\n", &[]),
    ]);
    let with_shell = BASE.replace("\"WorkingDir\"", "\"Shell\":[\"/bin/bash\"],\"WorkingDir\"");
    let world = World { base: Some(&with_shell), ..World::default() };
    assert_eq!(found("FROM debian\nCMD run me\n", &world), [""; 0]);
}

#[test]
fn maintainer_deprecated() {
    expect(&[
        ("FROM scratch\nMAINTAINER me@example.org\n", &["2 MaintainerDeprecated"]),
        ("FROM scratch\nLABEL org.opencontainers.image.authors=me\n", &[]),
    ]);
}

#[test]
fn undefined_arg_in_from() {
    expect(&[
        ("ARG tag=1\nFROM busybox:${tag}${version}\n", &["2 UndefinedArgInFrom"]),
        ("FROM --platform=$BULIDPLATFORM busybox\n", &["1 UndefinedArgInFrom"]),
        ("ARG base=scratch\nFROM $base\n", &[]),
        ("FROM --platform=$BUILDPLATFORM busybox\n", &[]),
        ("ARG DEBUG\nFROM busybox${DEBUG}\n", &[]),
        ("FROM busybox${DEBUG:-}\n", &[]),
    ]);
    let report = report("ARG MY_ARCH=amd64\nFROM --platform=linux/${MYARCH} busybox\n", &World::default()).unwrap();
    assert_eq!(report.warnings[0].hint.as_deref(), Some("did you mean MY_ARCH?"));
}

#[test]
fn workdir_relative_path() {
    expect(&[
        ("FROM scratch\nWORKDIR app/\n", &["2 WorkdirRelativePath"]),
        ("FROM scratch\nWORKDIR app/\nWORKDIR b\n", &["2 WorkdirRelativePath"]),
        ("FROM scratch\nARG D=app\nWORKDIR $D\n", &["3 WorkdirRelativePath"]),
        ("FROM scratch AS a\nWORKDIR /app\nFROM a\nWORKDIR sub\n", &[]),
        ("FROM scratch\nWORKDIR /app\nWORKDIR sub\n", &[]),
        ("FROM busybox\nWORKDIR $WHO_KNOWS\n", &[]),
    ]);
    // The base is the reason for the rule, no excuse.
    let world = World { base: Some(BASE), ..World::default() };
    assert_eq!(found("FROM debian\nWORKDIR app\n", &world), ["2 WorkdirRelativePath"]);
    assert_eq!(found("FROM debian\nWORKDIR $HOME/app\n", &world), [""; 0]);
}

#[test]
fn undefined_var() {
    expect(&[
        ("FROM scratch\nCOPY $foo .\nARG foo=bar\nRUN echo $foo\n", &["2 UndefinedVar"]),
        ("FROM scratch\nENV PATH=$PAHT:/x\n", &["2 UndefinedVar"]),
        ("FROM scratch\nARG A=$B B=$A\n", &["2 UndefinedVar"]),
        ("FROM scratch\nRUN --mount=type=cache,target=/$dir x\n", &["2 UndefinedVar"]),
        ("FROM scratch\nLABEL a=$b c=$b\nEXPOSE $port\n", &["2 UndefinedVar", "3 UndefinedVar"]),
        ("FROM scratch\nCOPY <<E /a\n$x\nE\nCOPY <<'E' /a\n$x\nE\n", &["2 UndefinedVar"]),
        ("FROM scratch\nARG A=1 B=$A\nENV C=$B\nRUN echo $D\n", &[]),
        ("FROM scratch\nARG foo\nCOPY a$foo /\n", &[]),
        ("FROM scratch AS a\nARG foo=b\nFROM a\nCOPY $foo /\n", &[]),
        ("FROM scratch\nENV LIBS=/x${LIBS:+:$LIBS} OTHER=${OTHER-none} PATH=/x:$PATH\n", &[]),
        ("FROM scratch\nENV A=${A:-$B}\nENV C=${PATH:-$B}\n", &["2 UndefinedVar"]),
        ("FROM busybox\nCOPY $WHO_KNOWS /\n", &[]),
        ("FROM scratch\nCMD [\"$x\"]\nSHELL [\"$x\"]\nONBUILD COPY $x /\n", &[]),
    ]);
    let world = World { base: Some(BASE), ..World::default() };
    assert_eq!(found("FROM debian\nCOPY $HOME $HOMF /\n", &world), ["2 UndefinedVar"]);
    let report = report("FROM debian\nCOPY $HOMF /\n", &world).unwrap();
    assert_eq!(report.warnings[0].message, "the variable '$HOMF' is used and not defined");
    assert_eq!(report.warnings[0].hint.as_deref(), Some("did you mean $HOME?"));
}

#[test]
fn multiple_instructions_disallowed() {
    expect(&[
        (
            "FROM scratch\nENTRYPOINT [\"a\"]\nENTRYPOINT [\"b\"]\nCMD [\"a\"]\nCMD [\"b\"]\nHEALTHCHECK NONE\nHEALTHCHECK CMD [\"a\"]\n",
            &["2 MultipleInstructionsDisallowed", "4 MultipleInstructionsDisallowed", "6 MultipleInstructionsDisallowed"],
        ),
        ("FROM scratch AS a\nCMD [\"a\"]\nFROM a\nCMD [\"b\"]\n", &[]),
    ]);
}

#[test]
fn legacy_key_value_format() {
    expect(&[
        ("FROM scratch\nENV a b\nLABEL a b\n", &["2 LegacyKeyValueFormat", "3 LegacyKeyValueFormat"]),
        ("FROM scratch\nENV a=b\nLABEL a=b\n", &[]),
    ]);
}

#[test]
fn invalid_base_image_platform() {
    let arm = BASE.replace("amd64", "arm64");
    for (base, expected) in [(Some(arm.as_str()), &["1 InvalidBaseImagePlatform"][..]), (Some(BASE), &[]), (None, &[])] {
        assert_eq!(found("FROM debian\n", &World { base, ..World::default() }), expected);
    }
}

#[test]
fn redundant_target_platform() {
    expect(&[
        ("FROM --platform=$TARGETPLATFORM busybox\n", &["1 RedundantTargetPlatform"]),
        ("FROM --platform=${TARGETPLATFORM} busybox\n", &["1 RedundantTargetPlatform"]),
        ("FROM --platform=$BUILDPLATFORM busybox\n", &[]),
        ("FROM busybox\n", &[]),
    ]);
}

#[test]
fn secrets_used_in_arg_or_env() {
    let text = "FROM scratch\nARG SECRET_PASSPHRASE\nENV SUPER_Secret=foo\nENV password=bar secret=baz\n\
        ARG super_secret_token=a auth=b\nENV apikey=bar sunflower=foo\nENV git_key=\nENV PUBLIC_KEY=\nARG public_token\n\
        ARG SECRET_FILE\nENV password_file=a\nARG AUTH_MODULE_VERSION\nENV MONKEY=1 tokens=2\n";
    let rule = |line| format!("{line} SecretsUsedInArgOrEnv");
    assert_eq!(found(text, &World::default()), [2, 3, 4, 4, 5, 5, 6, 7].map(rule));
}

#[test]
fn invalid_default_arg_in_from() {
    for (text, given, expected) in [
        ("ARG VERSION\nFROM busybox:$VERSION\n", ("VERSION", "1"), &["2 InvalidDefaultArgInFrom"][..]),
        ("ARG IMAGE\nFROM $IMAGE\n", ("IMAGE", "busybox"), &["2 InvalidDefaultArgInFrom"]),
        ("ARG IMAGE=${IMAGE:?which}\nFROM $IMAGE\n", ("IMAGE", "busybox"), &["2 InvalidDefaultArgInFrom"]),
        ("ARG END=box:\nFROM busy${END}\n", ("END", "box:1"), &["2 InvalidDefaultArgInFrom"]),
        ("ARG VERSION=1\nFROM busybox:${VERSION}\n", ("VERSION", "2"), &[]),
        ("ARG VARIANT=\nFROM busybox:stable${VARIANT}\n", ("VARIANT", "-musl"), &[]),
        ("ARG VARIANT\nFROM busybox:stable${VARIANT}\n", ("VARIANT", "-musl"), &[]),
        // Nothing is given, so nothing can be planned: the warning is there all the same.
        ("ARG IMAGE\nFROM $IMAGE\n", ("OTHER", "1"), &["2 InvalidDefaultArgInFrom"]),
    ] {
        assert_eq!(found(text, &World { build_args: &[given], ..World::default() }), expected, "{text}");
    }
}

#[test]
fn from_platform_flag_const_disallowed() {
    expect(&[
        ("FROM --platform=linux/amd64 busybox\n", &["1 FromPlatformFlagConstDisallowed"]),
        ("FROM --platform=linux/amd64 busybox AS my_amd64_stage\n", &[]),
        ("FROM --platform=linux/amd64 busybox AS linux\n", &[]),
        ("ARG P=linux/arm64\nFROM --platform=$P busybox\n", &[]),
    ]);
}

#[test]
fn copy_ignored_file() {
    const WARNED: &[&str] = &["2 CopyIgnoredFile"];
    for (ignored, instruction, expected) in [
        ("Dockerfile", "COPY Dockerfile .", WARNED),
        ("Dockerfile", "ADD Dockerfile /windy", WARNED),
        ("Dockerfile", "COPY --from=busybox Dockerfile /", &[]),
        ("Dockerfile", "ADD https://example.org/Dockerfile /", &[]),
        ("foobar", "COPY Dockerfile /foobar", &[]),
        ("**\n!Dockerfile", "COPY ./Dockerfile .", &[]),
        ("**\n!Dockerfile", "COPY . .", &[]),
        (".*", "COPY . .", &[]),
        ("*", "COPY . .", WARNED),
        ("*.log", "COPY *.log /", WARNED),
        ("sub\n!sub/b.txt", "COPY sub/a.txt /", WARNED),
        ("sub\n!other.txt", "COPY sub/a.txt /", WARNED),
        ("!sub/b.txt\nsub", "COPY sub/a.txt /", WARNED),
        ("sub\n!sub/a.txt", "COPY sub /sub", &[]),
        ("sub\n!sub/a.txt", "COPY sub/a.txt /", &[]),
        ("sub\n!sub/a.txt", "COPY sub/*.txt /", &[]),
        ("", "COPY a /", &[]),
    ] {
        let text = format!("FROM scratch\n{instruction}\n");
        assert_eq!(found(&text, &World { ignored: Some(ignored), ..World::default() }), expected, "{ignored} {instruction}");
        assert_eq!(found(&text, &World::default()), [""; 0], "{instruction}");
    }
}

#[test]
fn invalid_definition_description() {
    const CHECK: &str = "# check=experimental=InvalidDefinitionDescription\n";
    for (text, expected) in [
        ("# bar is the bar\nARG foo=bar\nFROM scratch\n", &["3 InvalidDefinitionDescription"][..]),
        ("# BasE is the base\nFROM scratch AS base\n", &["3 InvalidDefinitionDescription"]),
        (
            "FROM scratch\n# bad\nARG version=1\n# bad\nARG a=1 b=2\n",
            &["4 InvalidDefinitionDescription", "6 InvalidDefinitionDescription"],
        ),
        ("# foo is the foo\nARG foo=bar\n# base is the base\nFROM scratch AS base\n", &[]),
        ("FROM scratch\n# baz is the baz\nARG foo=1 bar=2 baz=3\n#\nARG bit=1\n# whatever\nCOPY a /\n", &[]),
        ("# about the file\n\nFROM scratch AS base\n", &[]),
        ("# a stage without a name\nFROM scratch\n# check=skip=UndefinedVar\nARG x\n", &[]),
    ] {
        assert_eq!(found(&format!("{CHECK}{text}"), &World::default()), expected, "{text}");
        assert_eq!(found(&format!("\n{text}"), &World::default()), [""; 0], "without being asked for: {text}");
    }
}

#[test]
fn expose_proto_casing() {
    expect(&[
        ("FROM scratch\nEXPOSE 80/TcP 8080/TCP 8080/udp\n", &["2 ExposeProtoCasing", "2 ExposeProtoCasing"]),
        ("FROM scratch\nARG P=80/UDP\nEXPOSE $P\n", &["3 ExposeProtoCasing"]),
        ("FROM scratch\nEXPOSE 80 81/tcp\n", &[]),
    ]);
}

#[test]
fn expose_invalid_format() {
    expect(&[
        ("FROM scratch\nEXPOSE 127.0.0.1:80:80 5000:5000 8000\n", &["2 ExposeInvalidFormat", "2 ExposeInvalidFormat"]),
        ("FROM scratch\nEXPOSE 80 81-90/tcp\n", &[]),
    ]);
}

#[test]
fn the_file_says_which_rules_count_and_the_build_argument_overrides_it() {
    let text = |options: &str| format!("#check={options}\nFROM scratch as base\ncopy a /\n");
    for (options, argument, expected, violation) in [
        ("skip=all", None, &[][..], None),
        ("skip=all;error=true", None, &[], None),
        ("skip=ConsistentInstructionCasing,FromAsCasing;error=true", None, &[], None),
        ("skip=ConsistentInstructionCasing", None, &["2 FromAsCasing"], None),
        (
            "skip=ConsistentInstructionCasing;error=true",
            None,
            &["2 FromAsCasing"],
            Some("lint violation found for rules: FromAsCasing"),
        ),
        (
            "skip=all",
            Some("skip=FromAsCasing;error=true"),
            &["3 ConsistentInstructionCasing"],
            Some("lint violation found for rules: ConsistentInstructionCasing"),
        ),
        ("error=true", Some("skip=all"), &[], None),
    ] {
        let build_args: Vec<(&str, &str)> = argument.iter().map(|argument| (CHECK_ARGUMENT, *argument)).collect();
        let world = World { build_args: &build_args, ..World::default() };
        assert_eq!(found(&text(options), &world), expected, "{options}");
        assert_eq!(report(&text(options), &world).unwrap().violation().as_deref(), violation, "{options}");
    }
    let error = report(&text("skip=all;eror=true"), &World::default()).unwrap_err();
    assert_eq!((error.message.as_str(), error.position.first_line), ("# check=: there is no option \"eror\"", 1));
}

#[test]
fn a_comment_directly_above_an_instruction_is_about_that_alone() {
    expect(&[
        ("FROM scratch\n# check=skip=JSONArgsRecommended // it traps signals\nCMD a\nENTRYPOINT b\n", &["4 JSONArgsRecommended"]),
        ("\n# check=skip=all\nFROM scratch AS Base\nCMD a\n", &["4 JSONArgsRecommended"]),
        ("FROM scratch\n# check=skip=UndefinedVar\nCMD a\n", &["3 JSONArgsRecommended"]),
        ("FROM scratch\n# check=skip=all\n\nCMD a\n", &["4 JSONArgsRecommended"]),
        ("FROM scratch\n# check=skip=all\n# because\nCMD a\n", &[]),
    ]);
}

#[test]
fn mistakes_of_all_stages_are_found_at_once() {
    let text = "FROM scratch\nEXPOSE many\nSTOPSIGNAL NONE\nCOPY $fiel /\nFROM busybox\nWORKDIR $UNKNOWN\nEXPOSE some\n";
    let report = report(text, &World::default()).unwrap();
    let lines: Vec<usize> = report.mistakes.iter().map(|mistake| mistake.position.first_line).collect();
    assert_eq!(lines, [2, 3, 7]);
    assert_eq!(report.warnings.len(), 1);
}

#[test]
fn a_file_of_thousands_of_findings_is_checked() {
    let mut text = String::from("FROM scratch\n");
    for line in 0..2_000 {
        let _ = writeln!(text, "ENV E_{line} $nothing_{line}");
    }
    assert_eq!(found(&text, &World::default()).len(), 4_000);
}
