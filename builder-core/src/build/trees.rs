//! Trees of stages and images, folded when somebody asks: a build whose results are all known asks for none.

use super::{Build, BuildError, CacheUse, ErrorKind, base::Keep};
use crate::oci::DiffId;
use crate::tree::{Change, LayerIndex, Tree};
use futures_util::future::try_join_all;
use std::sync::{Arc, PoisonError};
use tokio::sync::OnceCell;

/// What a stack of layers adds up to.
#[derive(Clone)]
pub(super) struct LazyTree {
    below: Arc<Tree>,
    /// Layers on top of it.
    layers: Vec<DiffId>,
    /// All together, once somebody has asked; clones share it.
    folded: Arc<OnceCell<Arc<Tree>>>,
}

impl LazyTree {
    pub(super) fn new(tree: Tree) -> Self {
        Self { below: Arc::new(tree), layers: Vec::new(), folded: Arc::default() }
    }

    pub(super) fn of_layers(layers: Vec<DiffId>) -> Self {
        Self { layers, ..Self::new(Tree::new()) }
    }

    /// Puts a layer on top whose index can be had.
    pub(super) fn add(&mut self, layer: DiffId) {
        self.settle();
        self.layers.push(layer);
    }

    /// Puts a layer on top whose changes are at hand, and whose index is in the store.
    pub(super) fn add_changes(&mut self, layer: DiffId, changes: &[Change]) {
        self.settle();
        if self.layers.is_empty() {
            Arc::make_mut(&mut self.below).apply(changes);
        } else {
            self.layers.push(layer);
        }
    }

    /// Begins anew on what is folded already.
    fn settle(&mut self) {
        if let Some(tree) = self.folded.get() {
            self.below = tree.clone();
            self.layers.clear();
        }
        self.folded = Arc::default();
    }
}

impl Build {
    /// The tree itself.
    pub(super) async fn tree(&self, lazy: &LazyTree) -> Result<Arc<Tree>, BuildError> {
        if lazy.layers.is_empty() {
            return Ok(lazy.below.clone());
        }
        let fold = async {
            let indexes = try_join_all(lazy.layers.iter().map(|layer| self.layer_index(*layer))).await?;
            let mut tree = lazy.below.clone();
            let fold = move || {
                let all = Arc::make_mut(&mut tree);
                for index in &indexes {
                    all.apply(&index.changes);
                }
                Ok(tree)
            };
            self.work.run(fold).await
        };
        lazy.folded.get_or_try_init(|| fold).await.cloned()
    }

    /// What a layer does: from the store, from a cache, or else by reading the layer.
    pub(super) async fn layer_index(&self, layer: DiffId) -> Result<LayerIndex, BuildError> {
        // A blob that is needed anyway is read once, for both.
        let keep = self.expected(layer);
        if keep >= Keep::Blobs {
            self.need_blob(layer).await?;
        }
        if let Some(index) = self.stored_index(layer).await? {
            return Ok(index);
        }
        if self.request.use_cache == CacheUse::On {
            for cache in self.caches.readable() {
                match cache.index(layer).await {
                    Ok(Some(index)) => {
                        self.hearsay.lock().unwrap_or_else(PoisonError::into_inner).insert(layer);
                        return Ok(index);
                    }
                    Ok(None) => {}
                    Err(error) => self.warn_about_cache(&error).await,
                }
            }
        }
        let known = self.layers.lock().unwrap_or_else(PoisonError::into_inner).get(&layer).cloned();
        let known =
            known.ok_or_else(|| BuildError::new(ErrorKind::Internal, format!("nobody knows where the layer {layer} is")))?;
        self.download(&known, keep).await
    }

    /// Whether it was a shared cache that said what is in a layer.
    pub(super) fn is_hearsay(&self, layer: DiffId) -> bool {
        self.hearsay.lock().unwrap_or_else(PoisonError::into_inner).contains(&layer)
    }

    async fn stored_index(&self, layer: DiffId) -> Result<Option<LayerIndex>, BuildError> {
        let store = self.store.clone();
        self.work.run(move || store.layer_index(layer).map_err(BuildError::store)).await
    }
}
