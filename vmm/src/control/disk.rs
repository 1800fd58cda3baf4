//! Disks through the socket: what their layers have done, and what a cache is told to do.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sky_devices::icache::ICache;
use sky_devices::layers::LayerStats;
use sky_devices::policy::Policy;

/// A disk of a machine that runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DiskLayers {
    /// File of its image.
    pub path: String,
    /// What its layers have done.
    #[serde(flatten)]
    pub layers: LayerStats,
}

/// What a cache can be told to do while it is used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum CacheAction {
    /// List the blocks that are held.
    List,
    /// Write back what the image does not have yet, so that a crash would cost nothing of the cache.
    Flush,
    /// Write back, and forget everything.
    Clear,
    /// Use so many bytes of the fast tier, more or fewer than now.
    Resize(u64),
    /// Take other classes: the text of a file as OpenCAS has them.
    Classes(String),
}

impl CacheAction {
    /// Does it.
    ///
    /// # Errors
    /// The classes make no sense, or a tier failed, in words.
    pub(super) fn carry_out(&self, cache: &ICache) -> Result<Value, String> {
        let done = |result: sky_devices::block::Result<()>| result.map_err(|error| error.to_string());
        match self {
            Self::List => {
                let blocks = cache.cached();
                let entry =
                    |block: &sky_devices::icache::Cached| (block.offset, block.class.get(), block.dirty);
                return Ok(json!({ "blocks": blocks.iter().map(entry).collect::<Vec<_>>() }));
            }
            Self::Flush => done(cache.reconcile())?,
            Self::Clear => done(cache.clear())?,
            Self::Resize(size) => {
                done(cache.resize(*size))?;
                return Ok(json!({ "size": cache.stats().size }));
            }
            Self::Classes(text) => cache.set_policy(Policy::parse(text).map_err(|error| error.to_string())?),
        }
        Ok(json!({}))
    }
}
