//! Nothing but benches lives here; see `*.rs` beside this file.
