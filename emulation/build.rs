//! Builds the stub: a static program without libraries at an address of its own. Needs what cargo needs anyway, `rustc` and
//! its linker.

use std::{
    env,
    ffi::OsString,
    path::Path,
    process::{Command, ExitCode},
};

fn main() -> ExitCode {
    println!("cargo::rerun-if-changed=src");
    println!("cargo::rerun-if-changed=stub.ld");
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=RUSTC_LINKER");
    let variable = |name: &str| env::var_os(name).unwrap_or_default();
    let source = Path::new(&variable("CARGO_MANIFEST_DIR")).join("src");
    let output = Path::new(&variable("OUT_DIR")).join("stub");
    let architecture = variable("CARGO_CFG_TARGET_ARCH");
    if architecture != "x86_64" && architecture != "aarch64" || variable("CARGO_CFG_TARGET_OS") != "linux" {
        // An architecture without a table: the probe says that emulation does not work there.
        return if std::fs::write(output, b"").is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    let mut remap = OsString::from("--remap-path-prefix=");
    remap.push(&source);
    remap.push("=emulation");
    let mut rustc = Command::new(variable("RUSTC"));
    rustc.args(["--crate-name=stub", "--crate-type=bin", "--edition=2024"]).arg("--target").arg(variable("TARGET"));
    // Small code is what matters: each process of a step brings it into its memory anew.
    rustc.args(["-Copt-level=s", "-Cpanic=abort", "-Ccodegen-units=1", "-Cstrip=symbols", "-Cdebuginfo=0"]);
    // At its fixed place everything is reached relative to the instruction: 32 bits do not hold an address there. The
    // linker's name of the build would differ between machines.
    rustc.arg("-Crelocation-model=pic");
    // ARM would otherwise ask, at its start and through a library, which atomic instructions there are.
    let features = if architecture == "aarch64" { "-crt-static,-outline-atomics" } else { "-crt-static" };
    rustc.arg(format!("-Ctarget-feature={features}"));
    if variable("CARGO_CFG_TARGET_ENV") == "musl" {
        // Otherwise the start of a C program comes with the target.
        rustc.arg("-Clink-self-contained=no");
    }
    let script = Path::new(&variable("CARGO_MANIFEST_DIR")).join("stub.ld");
    let linker = env::var_os("RUSTC_LINKER");
    // For another machine than this one, unless somebody has named a linker: the one that comes with Rust.
    let own_linker = linker.is_none() && variable("TARGET") != variable("HOST") && architecture == "aarch64";
    if own_linker {
        rustc.args(["-Clinker=rust-lld", "-Clinker-flavor=ld.lld"]);
        for argument in ["-static", "--no-pie", "--build-id=none", "--no-eh-frame-hdr", "-T"] {
            rustc.arg(format!("-Clink-arg={argument}"));
        }
        let mut argument = OsString::from("-Clink-arg=");
        argument.push(script);
        rustc.arg(argument);
    } else {
        for argument in ["-nostdlib", "-nostartfiles", "-static", "-no-pie", "-Wl,--build-id=none", "-Wl,--no-eh-frame-hdr"] {
            rustc.arg(format!("-Clink-arg={argument}"));
        }
        let mut argument = OsString::from("-Clink-arg=-Wl,-T,");
        argument.push(script);
        rustc.arg(argument);
    }
    if let Some(linker) = linker {
        let mut argument = OsString::from("-Clinker=");
        argument.push(linker);
        rustc.arg(argument);
    }
    rustc.arg(remap).arg("-o").arg(&output).arg(source.join("main.rs"));
    match rustc.status() {
        Ok(status) if status.success() => ExitCode::SUCCESS,
        Ok(status) => {
            println!("cargo::error=the stub could not be built: {status}");
            ExitCode::FAILURE
        }
        Err(error) => {
            println!("cargo::error=cannot run rustc: {error}");
            ExitCode::FAILURE
        }
    }
}
