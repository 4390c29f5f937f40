//! What keys need to know of layers, remembered: the digest of what is copied from a stage, and whom a name means. A step whose
//! result is known then asks for nothing that is in a layer.
//!
//! What a cache says of it finds results and makes none: before a step is executed, its layers are read.

use super::{
    Build, BuildError, ErrorKind,
    base::Keep,
    copy::{Found, files_of},
    stage::{CurrentStep, StageState},
};
use crate::cache::{FileParts, Key, KeyBuilder, Reading};
use crate::copy::{self, AccountError, Accounts};
use crate::evaluate::{CopyAction, CopySource};
use crate::image::Layer;
use crate::plan::Source;

/// Of more files no single ones are kept.
const MOST_FILES: usize = 64;

/// Whether what an earlier build has read will do.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Recall {
    Allowed,
    Refused,
}

/// Files that an earlier build has read.
pub(super) struct Recalled {
    pub(super) digest: [u8; 32],
    pub(super) files: FileParts,
}

/// A user's and a group's id.
#[derive(Clone, Copy)]
pub(super) struct Ids {
    pub(super) value: (u32, u32),
    /// Whether an earlier build has read what they are.
    pub(super) is_recalled: bool,
}

/// A name, and what somebody of that name is wanted for.
#[derive(Clone, Copy)]
pub(super) struct Account<'a> {
    pub(super) role: Role,
    pub(super) text: &'a str,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// Of `--chown`.
    Owner,
    /// The USER who makes a working directory.
    Maker,
}

impl Account<'_> {
    /// The ids that it is, if it is no name.
    fn numbers(self) -> Option<(u32, u32)> {
        Accounts::default().owner(self.text).ok()
    }

    fn look_up(self, accounts: &Accounts) -> Result<(u32, u32), AccountError> {
        match self.role {
            Role::Owner => accounts.owner(self.text),
            Role::Maker => accounts.maker(self.text),
        }
    }

    fn key(self, layers: &[Layer]) -> Key {
        let role = match self.role {
            Role::Owner => "owner",
            Role::Maker => "maker",
        };
        question(layers).part("role", role).part("name", self.text).finish()
    }
}

impl Build {
    /// The ids of `account`: from the accounts of the image at this point, where it is a name.
    pub(super) async fn ids(&self, account: Account<'_>, before: &StageState, recall: Recall) -> Result<Ids, BuildError> {
        if let Some(value) = account.numbers() {
            return Ok(Ids { value, is_recalled: false });
        }
        let key = account.key(&before.layers);
        if recall == Recall::Allowed
            && let Some(Reading::Owner { uid, gid }) = self.recall(key).await
        {
            return Ok(Ids { value: (uid, gid), is_recalled: true });
        }
        let (uid, gid) = account.look_up(&self.accounts(before).await?).map_err(|error| {
            let what = match account.role {
                Role::Owner => format!("--chown={}", account.text),
                Role::Maker => format!("USER {}", account.text),
            };
            BuildError::new(ErrorKind::Dockerfile, what).because(error)
        })?;
        self.have_read(&before.layers, key, Reading::Owner { uid, gid });
        Ok(Ids { value: (uid, gid), is_recalled: false })
    }

    /// The sources of a COPY as an earlier build has read them, if they are files of layers and that is known of all.
    pub(super) async fn recall_sources(
        &self,
        step: &CurrentStep<'_>,
        action: &CopyAction,
    ) -> Result<Option<Vec<Found>>, BuildError> {
        let Some(layers) = self.source_layers(step, action).await? else { return Ok(None) };
        let mut found = Vec::new();
        for source in &action.sources {
            match self.recall(files_key(&layers, source, action)).await {
                Some(Reading::Content { digest, files }) => found.push(Found::Recalled(Recalled { digest, files })),
                _ => return Ok(None),
            }
        }
        Ok(Some(found))
    }

    /// Notes what the sources of a COPY are, for later builds.
    pub(super) async fn note_sources(
        &self,
        step: &CurrentStep<'_>,
        action: &CopyAction,
        found: &[Found],
    ) -> Result<(), BuildError> {
        let Some(layers) = self.source_layers(step, action).await? else { return Ok(()) };
        for (source, found) in action.sources.iter().zip(found) {
            if let Found::Files(selections) = found
                && let Some(digest) = copy::content_digest(selections)
            {
                let files = files_of(selections, MOST_FILES);
                let reading = Reading::Content { digest: *digest.as_bytes(), files };
                self.have_read(&layers, files_key(&layers, source, action), reading);
            }
        }
        Ok(())
    }

    /// The layers that a COPY takes its files from; `None` if it takes them from elsewhere.
    async fn source_layers(&self, step: &CurrentStep<'_>, action: &CopyAction) -> Result<Option<Vec<Layer>>, BuildError> {
        let Some(name) = &action.from else { return Ok(None) };
        let platform = &self.request.platform;
        Ok(match self.named_source(step, name)? {
            Source::Scratch => None,
            Source::Stage(index) => Some(self.stage(index).await?.layers.clone()),
            Source::Image(name) => Some(self.base(&name, platform, Keep::Indexes).await?.layers),
            Source::Context(name) => self.image_context(&name, platform, Keep::Indexes).await?.map(|image| image.layers),
        })
    }
}

/// The beginning of a key of something that is read of layers.
fn question(layers: &[Layer]) -> KeyBuilder {
    let mut key = KeyBuilder::new("reading", None);
    for layer in layers {
        key.part("layer", layer.diff_id.0.as_bytes());
    }
    key
}

/// The key of what `source` is in these layers, for a mount.
pub(super) fn mount_key(layers: &[Layer], source: &str) -> Key {
    question(layers).part("mount", source).finish()
}

fn files_key(layers: &[Layer], source: &CopySource, action: &CopyAction) -> Key {
    let mut key = question(layers);
    match source {
        CopySource::Path(path) => key.part("path", path),
        CopySource::Inline { name, content } => key.part("name", name).part("content", content),
    };
    for pattern in &action.excludes {
        key.part("exclude", pattern);
    }
    key.part("parents", [u8::from(action.parents)]).finish()
}
