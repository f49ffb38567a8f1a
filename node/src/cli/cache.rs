//! `fnode cache`: values of cached calls.

use comfy_table::Cell;
use hyper::Method;
use proto::ByteSize;

use super::args::{CacheCommand, CacheGcArgs, CacheListArgs, CachePurgeArgs};
use super::client::{Client, segment};
use super::cluster::print_done;
use super::error::CliError;
use super::exit::Exit;
use super::output::{Output, fields, table};
use super::time::{ago, counted, date, length, now_unix_ms};
use super::verify::verify;
use crate::http::words::Done;
use crate::http::words::cache::{
    CacheChange, CacheCollectRequest, CacheCollected, CacheKeepRequest, CachePurgeRequest, CachePurged, CacheStats,
    CacheValue, CacheValues, CacheWhy,
};

/// Digits of a key that tables show; as good as the whole.
const KEY_DIGITS: usize = 12;

pub(crate) async fn cache(mut client: Client, command: CacheCommand, output: Output) -> Result<Exit, CliError> {
    match command {
        CacheCommand::Stats => {
            let stats: CacheStats = client.get("/cache/stats").await?;
            output.print(&stats, stats_text)?;
        }
        CacheCommand::List(args) => {
            let values: CacheValues = client.get(&list_path(&args)).await?;
            output.print(&values, |values| list_text(&values.values))?;
        }
        CacheCommand::Show(args) => {
            let value: CacheValue = client.get(&format!("/cache/values/{}", segment(&args.key))).await?;
            output.print(&value, value_text)?;
        }
        CacheCommand::Why(args) => {
            let why: CacheWhy = client.get(&format!("/cache/values/{}/why", segment(&args.key))).await?;
            output.print(&why, why_text)?;
        }
        CacheCommand::Verify(args) => return verify(client, args, output).await,
        CacheCommand::Keep(args) => {
            let path = format!("/cache/values/{}/keep", segment(&args.key));
            let done: Done = client.post(&path, &CacheKeepRequest { kept: !args.undo }).await?;
            return print_done(&done, output);
        }
        CacheCommand::Purge(CachePurgeArgs { key: Some(key), .. }) => {
            let path = format!("/cache/values/{}", segment(&key));
            let done: Done = client.json(Method::DELETE, &path, None::<&()>).await?;
            return print_done(&done, output);
        }
        CacheCommand::Purge(args) => {
            let purged: CachePurged = client.post("/cache/purge", &purge_request(args)).await?;
            output.print(&purged, |purged| {
                let verb = if purged.dry_run { "would remove" } else { "removed" };
                format!("{verb} {} of {} from every node", counted(purged.values, "value"), ByteSize(purged.bytes))
            })?;
        }
        CacheCommand::Gc(CacheGcArgs { max_size, dry_run }) => {
            let request = CacheCollectRequest { max_bytes: max_size.0, dry_run };
            let collected: CacheCollected = client.post("/cache/gc", &request).await?;
            output.print(&collected, |collected| {
                let verb = if collected.dry_run { "would remove" } else { "removed" };
                let values = counted(collected.values, "value");
                format!("{verb} {values} of {} from this node", ByteSize(collected.freed_bytes))
            })?;
        }
    }
    Ok(Exit::Done)
}

fn purge_request(args: CachePurgeArgs) -> CachePurgeRequest {
    CachePurgeRequest {
        function: args.function.unwrap_or_default(),
        project: args.project.unwrap_or_default(),
        user: args.user.unwrap_or_default(),
        dry_run: args.dry_run,
    }
}

fn list_path(args: &CacheListArgs) -> String {
    let mut path = format!("/cache/values?limit={}", args.limit);
    for (name, value) in [("function", &args.function), ("project", &args.project), ("user", &args.user)] {
        if let Some(value) = value {
            path.push_str(&format!("&{name}={}", segment(value)));
        }
    }
    path
}

fn stats_text(stats: &CacheStats) -> String {
    let mut text = fields(&[
        ("values", format!("{} of {}, {} to compute", stats.values, ByteSize(stats.bytes), length(stats.took_ms))),
        ("on this node", format!("{} of {}", stats.here_values, ByteSize(stats.here_bytes))),
        ("never evicted", stats.kept_values.to_string()),
        ("saved", length(stats.hits.iter().map(|hits| hits.saved_ms).sum())),
    ]);
    if !stats.uses.is_empty() {
        let rows = stats.uses.iter().map(|used| {
            vec![
                Cell::new(&used.project),
                Cell::new(&used.user),
                Cell::new(used.values),
                Cell::new(ByteSize(used.bytes)),
                Cell::new(length(used.took_ms)),
            ]
        });
        text = text + "\n" + &table(&["project", "user", "values", "size", "to compute"], rows);
    }
    if !stats.hits.is_empty() {
        let rows = stats.hits.iter().map(|hits| {
            [&hits.project, &hits.user]
                .map(Cell::new)
                .into_iter()
                .chain([Cell::new(hits.hits), Cell::new(length(hits.saved_ms))])
                .collect()
        });
        text = text + "\n\n" + &table(&["project", "user", "found", "saved"], rows);
    }
    if !stats.silent.is_empty() {
        let names: Vec<&str> = stats.silent.iter().map(|node| node.name.as_str()).collect();
        text = text + "\n\n" + "what was saved on " + &names.join(", ") + " is not counted: no answer from there";
    }
    text
}

fn list_text(values: &[CacheValue]) -> String {
    if values.is_empty() {
        return "no values".to_owned();
    }
    let now = now_unix_ms();
    let rows = values.iter().map(|value| {
        vec![
            Cell::new(short(&value.key)),
            Cell::new(&value.function),
            Cell::new(&value.project),
            Cell::new(&value.user),
            Cell::new(&value.node.name),
            Cell::new(ByteSize(value.bytes)),
            Cell::new(length(value.took_ms)),
            Cell::new(format!("{} ago", ago(value.made_unix_ms, now))),
            Cell::new(if value.is_here { "yes" } else { "" }),
            Cell::new(if value.is_kept { "yes" } else { "" }),
        ]
    });
    table(&["key", "function", "project", "user", "made by", "size", "took", "made", "here", "kept"], rows)
}

fn short(key: &str) -> &str {
    key.get(..KEY_DIGITS).unwrap_or(key)
}

fn value_text(value: &CacheValue) -> String {
    fields(&[
        ("key", value.key.clone()),
        ("function", value.function.clone()),
        ("project", value.project.clone()),
        ("user", value.user.clone()),
        ("made", format!("{}, on {}", date(value.made_unix_ms), value.node.name)),
        ("took", length(value.took_ms)),
        ("size", ByteSize(value.bytes).to_string()),
        ("expires", value.expires_unix_ms.map_or_else(|| "never".to_owned(), date)),
        ("on this node", if value.is_here { "yes" } else { "no" }.to_owned()),
        ("never evicted", if value.is_kept { "yes" } else { "no" }.to_owned()),
    ])
}

fn why_text(why: &CacheWhy) -> String {
    let function = &why.value.function;
    let Some(earlier) = &why.earlier else {
        return format!("{} is the earliest value of {function} that can be had", short(&why.value.key));
    };
    let now = now_unix_ms();
    let made = format!("{} by {}", ago(earlier.made_unix_ms, now) + " ago", earlier.user);
    let mut text = format!("{function} was called before ({}, {made}); this call differs in:", short(&earlier.key));
    if why.differs.is_empty() {
        text.push_str("\n  nothing that its parts tell");
    }
    for part in &why.differs {
        let change = match part.change {
            CacheChange::Changed => "another",
            CacheChange::Added => "new",
            CacheChange::Removed => "gone",
        };
        text.push_str(&format!("\n  {} {}: {change}", part.kind, part.name));
    }
    text
}
