//! Cached values: what there is, what it saves, why one was not found, and what goes.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use axum::Json;
use axum::extract::State;
use futures::{StreamExt as _, TryStreamExt as _};
use proto::{ByteSize, ValueKey};

use super::{Answered, To, done, view};
use crate::http::describe::Names;
use crate::http::refusal::{Asked, Given, Path, Refusal, blocking};
use crate::http::routes::Shared;
use crate::http::words::Done;
use crate::http::words::cache::{
    CacheChange, CacheCheckRequest, CacheChecked, CacheCollectRequest, CacheCollected, CacheDamage, CacheDifference,
    CacheHits, CacheKeepRequest, CachePurgeRequest, CachePurged, CacheQuery, CacheStats, CacheUse, CacheValue,
    CacheValues, CacheWhy,
};
use crate::http::words::error::{ErrorCode, ErrorWord};
use crate::node::NodeHandle;
use crate::node::cached::{Cached, Parts, Wanted};
use crate::node::check::{Checked, Damage};
use crate::node::evict::evict;
use crate::node::hits::HitRow;

/// Values in one answer, when no limit is given, and at most.
const LIMIT: usize = 100;
const LIMIT_MAX: usize = 10_000;
/// Purges under way at once: they share commits.
const PURGES_MAX: usize = 64;

pub(crate) async fn stats(State(Shared { api, .. }): State<Shared>) -> Answered<CacheStats> {
    let node = api.node.clone();
    let all = blocking(move || node.cached(&Wanted::default(), usize::MAX)).await?;
    let (hits, silent) = api.node.cache_hits().await?;
    let (_, names) = view(&api.node).await?;
    let silent = silent.into_iter().map(|node| names.of(node)).collect();
    Ok(Json(CacheStats { hits: saved(hits), silent, ..sum(&all) }))
}

/// Rows of all nodes, by project and user; who was saved most comes first.
fn saved(rows: Vec<HitRow>) -> Vec<CacheHits> {
    let mut by_pair: BTreeMap<(String, String), CacheHits> = BTreeMap::new();
    for HitRow { project, user, hits, saved_ms } in rows {
        let fresh = || CacheHits { project: project.clone(), user: user.clone(), ..CacheHits::default() };
        let sum = by_pair.entry((project.clone(), user.clone())).or_insert_with(fresh);
        sum.hits = sum.hits.saturating_add(hits);
        sum.saved_ms = sum.saved_ms.saturating_add(saved_ms);
    }
    let mut saved: Vec<CacheHits> = by_pair.into_values().collect();
    saved.sort_by_key(|sum| Reverse(sum.saved_ms));
    saved
}

fn sum(all: &[Cached]) -> CacheStats {
    let mut stats = CacheStats::default();
    let mut uses: BTreeMap<(String, String), CacheUse> = BTreeMap::new();
    for Cached { note, is_here, is_kept, .. } in all {
        stats.values += 1;
        stats.kept_values += u64::from(*is_kept);
        stats.bytes += note.bytes;
        stats.took_ms = stats.took_ms.saturating_add(note.took_ms);
        stats.here_values += u64::from(*is_here);
        stats.here_bytes += if *is_here { note.bytes } else { 0 };
        let (project, user) = (note.project.clone(), note.user.clone());
        let fresh = || CacheUse { project: project.clone(), user: user.clone(), ..CacheUse::default() };
        let used = uses.entry((project.clone(), user.clone())).or_insert_with(fresh);
        used.values += 1;
        used.bytes += note.bytes;
        used.took_ms = used.took_ms.saturating_add(note.took_ms);
    }
    stats.uses = uses.into_values().collect();
    stats
}

pub(crate) async fn list(
    State(Shared { api, .. }): State<Shared>,
    Asked(query): Asked<CacheQuery>,
) -> Answered<CacheValues> {
    let CacheQuery { function, project, user, limit } = query;
    let limit = if limit == 0 { LIMIT } else { (limit as usize).min(LIMIT_MAX) };
    let (node, wanted) = (api.node.clone(), Wanted { function, project, user });
    let found = blocking(move || node.cached(&wanted, limit)).await?;
    let (_, names) = view(&api.node).await?;
    Ok(Json(CacheValues { values: found.iter().map(|value| word(value, &names)).collect() }))
}

pub(crate) async fn show(State(Shared { api, .. }): State<Shared>, Path(key): Path<String>) -> Answered<CacheValue> {
    let found = find(&api.node, key).await?;
    let (_, names) = view(&api.node).await?;
    Ok(Json(word(&found, &names)))
}

pub(crate) async fn why(State(Shared { api, .. }): State<Shared>, Path(key): Path<String>) -> Answered<CacheWhy> {
    let found = find(&api.node, key).await?;
    let why = api.node.why_cached(found).await?;
    let (_, names) = view(&api.node).await?;
    let differs = why.earlier.as_ref().map(|(_, then)| differences(&why.parts, then)).unwrap_or_default();
    let earlier = why.earlier.map(|(earlier, _)| word(&earlier, &names));
    Ok(Json(CacheWhy { value: word(&why.value, &names), earlier, differs }))
}

fn differences(now: &Parts, then: &Parts) -> Vec<CacheDifference> {
    let parts: BTreeSet<&(String, String)> = now.keys().chain(then.keys()).collect();
    let differs = parts.into_iter().filter_map(|part| {
        let change = match (now.get(part), then.get(part)) {
            (Some(now), Some(then)) if now == then => return None,
            (Some(_), Some(_)) => CacheChange::Changed,
            (Some(_), None) => CacheChange::Added,
            (None, _) => CacheChange::Removed,
        };
        Some(CacheDifference { kind: part.0.clone(), name: part.1.clone(), change })
    });
    differs.collect()
}

pub(crate) async fn purge(State(Shared { api, .. }): State<Shared>, Path(key): Path<String>) -> Answered<Done> {
    let found = find(&api.node, key).await?;
    api.node.purge_cached(found.key).await?;
    Ok(done(
        "purge",
        To::Value(found.key),
        format!(
            "the value {} of {} is gone from every node; the next call computes it",
            found.key.short(),
            found.note.function
        ),
    ))
}

pub(crate) async fn purge_many(
    State(Shared { api, .. }): State<Shared>,
    Given(request): Given<CachePurgeRequest>,
) -> Answered<CachePurged> {
    let CachePurgeRequest { function, project, user, dry_run } = request;
    let wanted = Wanted { function, project, user };
    if wanted == Wanted::default() {
        let message = "a purge of many wants a function, a project or a user";
        return Err(ErrorWord::new(ErrorCode::BadInput, message, "name what shall go").into());
    }
    let node = api.node.clone();
    let found = blocking(move || node.cached(&wanted, usize::MAX)).await?;
    if !dry_run {
        let keys: Vec<ValueKey> = found.iter().map(|value| value.key).collect();
        let purge = |key| {
            let node = api.node.clone();
            async move { node.purge_cached(key).await }
        };
        futures::stream::iter(keys).map(purge).buffer_unordered(PURGES_MAX).try_collect::<()>().await?;
    }
    let bytes = found.iter().map(|value| value.note.bytes).sum();
    Ok(Json(CachePurged { values: found.len() as u64, bytes, dry_run }))
}

pub(crate) async fn keep(
    State(Shared { api, .. }): State<Shared>,
    Path(key): Path<String>,
    Given(CacheKeepRequest { kept }): Given<CacheKeepRequest>,
) -> Answered<Done> {
    let found = find(&api.node, key).await?;
    api.node.keep_cached(found.key, kept).await?;
    let (short, function) = (found.key.short(), found.note.function);
    let (action, told) = match kept {
        true => {
            ("keep", format!("no node evicts the value {short} of {function}; only a purge, or its expiry, removes it"))
        }
        false => ("let_go", format!("the value {short} of {function} goes when room is needed, as others do")),
    };
    Ok(done(action, To::Value(found.key), told))
}

pub(crate) async fn check(
    State(Shared { api, .. }): State<Shared>,
    Given(CacheCheckRequest { after }): Given<CacheCheckRequest>,
) -> Answered<CacheChecked> {
    let after = after.map(|key| key.parse::<ValueKey>()).transpose();
    let after = after.map_err(|error| ErrorWord::new(ErrorCode::BadInput, error.to_string(), "give a whole key"))?;
    let Checked { values, bytes, damaged, next } = api.node.check_cached(after).await?;
    let damage = |damage: Damage| CacheDamage {
        key: damage.key.to_string(),
        function: damage.function,
        mended: damage.is_mended,
    };
    Ok(Json(CacheChecked {
        values,
        bytes,
        held_bytes: api.node.cache_held_bytes().await?,
        damaged: damaged.into_iter().map(damage).collect(),
        next: next.map(|key| key.to_string()),
    }))
}

pub(crate) async fn gc(
    State(Shared { api, .. }): State<Shared>,
    Given(request): Given<CacheCollectRequest>,
) -> Answered<CacheCollected> {
    let CacheCollectRequest { max_bytes, dry_run } = request;
    let freed = evict(&api.node, ByteSize(max_bytes), dry_run).await?;
    Ok(Json(CacheCollected { values: freed.blobs, freed_bytes: freed.bytes, dry_run }))
}

/// The one value whose key begins with `key`.
async fn find(node: &NodeHandle, key: String) -> Result<Cached, Refusal> {
    let (handle, prefix) = (node.clone(), key.to_lowercase());
    let mut found = blocking(move || handle.cached_with_prefix(&prefix, 3)).await?;
    match (found.pop(), found.pop()) {
        (Some(value), None) => Ok(value),
        (Some(one), Some(other)) => {
            let message = format!("{key} begins the keys of several values, as {} and {}", other.key, one.key);
            Err(ErrorWord::new(ErrorCode::Ambiguous, message, "type more of it").into())
        }
        (None, _) => {
            let message = format!("no value that counts has the key {key}");
            Err(ErrorWord::not_found(message, "see fnode cache list").into())
        }
    }
}

fn word(value: &Cached, names: &Names) -> CacheValue {
    let note = &value.note;
    CacheValue {
        key: value.key.to_string(),
        function: note.function.clone(),
        project: note.project.clone(),
        user: note.user.clone(),
        node: names.of(value.maker),
        bytes: note.bytes,
        took_ms: note.took_ms,
        made_unix_ms: note.made_unix_ms,
        expires_unix_ms: note.expires_unix_ms,
        content: note.content.to_string(),
        is_here: value.is_here,
        is_kept: value.is_kept,
    }
}
