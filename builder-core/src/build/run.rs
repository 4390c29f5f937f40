//! stub
use super::{
    Build, BuildError,
    stage::{CurrentStep, StepLayer},
};
use crate::evaluate::RunAction;
use crate::isolation::{Isolation, Refused};
use std::sync::Arc;
/// x
pub(super) fn strongest_isolation() -> Result<Arc<dyn Isolation>, Refused> {
    loop {}
}
/// x
pub(super) fn host_resolv_conf() -> Vec<u8> {
    vec![]
}
impl Build {
    pub(super) async fn run(&self, _step: &CurrentStep<'_>, _action: RunAction) -> Result<StepLayer, BuildError> {
        loop {}
    }
}
