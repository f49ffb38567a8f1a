//! The one table of routes: the router and the OpenAPI page are both made from it, so neither can know a
//! route that the other does not.

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::Method;
use axum::routing::{MethodFilter, MethodRouter, on};
use proto::codec::BODY_MAX;
use tokio::sync::watch;
use utoipa::ToSchema;

use super::answers::{
    atlas, blobs, cache, cluster, events, jobs, logs, members, nodes, points, projects, record, runs, secrets, submit,
    track,
};
use super::openapi::Described;
use super::refusal::Refusal;
use super::words::atlas::{
    AtlasDescription, AtlasListing, AtlasLog, AtlasNote, AtlasNoteRequest, AtlasOverview, AtlasOverviewQuery,
    AtlasProject, AtlasQuery, AtlasTagRequest,
};
use super::words::blob::{BlobAnswer, BlobCheck, BundleAnswer, FetchEvent, Outputs, OutputsQuery};
use super::words::cache::{
    CacheCheckRequest, CacheChecked, CacheCollectRequest, CacheCollected, CacheKeepRequest, CachePurgeRequest,
    CachePurged, CacheQuery, CacheStats, CacheValue, CacheValues, CacheWhy,
};
use super::words::error::{ErrorCode, ErrorWord};
use super::words::explain::ExplanationWord;
use super::words::job::{JobPage, JobQuery, JobWord, LogEvent, LogQuery, MarkRequest, MemberQuery, WaitQuery};
use super::words::node::{DrainRequest, LabelRequest, NodeInfo, NodeWord, Nodes, Status};
use super::words::part::PartRequest;
use super::words::project::{ProjectNoteRequest, ProjectNotes, ProjectRequest, ProjectWord, Projects};
use super::words::submit::{SubmitAnswer, SubmitRequest};
use super::words::track::{
    Artifacts, FollowQuery, RunAnswer, RunRequest, SeriesNames, SeriesNamesQuery, SeriesQuery, SeriesWord,
};
use super::words::{
    CollectRequest, Collected, Done, EventQuery, EventWord, Findings, Invitation, InviteRequest, SecretNames,
    ShutdownRequest,
};
use super::{API_PREFIX, ATLAS_PREFIX, Api};
use crate::node::SECRET_MAX;

/// Requests in JSON: a specification with all its texts, escaped, fits.
const JSON_MAX: usize = 2 << 20;

/// What handlers share beside the node.
#[derive(Clone)]
pub(crate) struct Shared {
    pub(crate) api: Api,
    /// Turns true when the node ends: streams end then.
    pub(crate) closing: watch::Receiver<bool>,
}

/// One route: what it is, and who answers it.
pub struct Route {
    /// Method.
    pub method: Method,
    /// What its path begins with.
    pub prefix: &'static str,
    /// Path after the prefix, with `{names}`.
    pub path: &'static str,
    /// One line for people.
    pub summary: &'static str,
    /// What may stand after the question mark.
    pub query: Option<Described>,
    /// What it takes.
    pub body: Body,
    /// What it gives.
    pub answer: Answer,
    body_max: usize,
    handler: MethodRouter<Shared>,
}

/// What a route takes.
pub enum Body {
    /// Nothing.
    None,
    /// A word.
    Json(Described),
    /// Bytes as they are.
    Bytes,
}

/// What a route gives.
pub enum Answer {
    /// A word.
    Json(Described),
    /// The OpenAPI page.
    Page,
    /// Bytes as they are.
    Bytes,
    /// Server-sent events.
    Events(Described),
    /// A log: bytes, or server-sent events when these are asked for.
    Log(Described),
}

impl Route {
    fn new<H, T>(method: Method, path: &'static str, summary: &'static str, handler: H) -> Self
    where
        H: axum::handler::Handler<T, Shared>,
        T: 'static,
    {
        let filter = MethodFilter::try_from(method.clone()).expect("the table names ordinary methods");
        let handler = on(filter, handler);
        let (query, body, answer) = (None, Body::None, Answer::Bytes);
        let prefix = API_PREFIX;
        Self { method, prefix, path, summary, query, body, answer, body_max: 0, handler }
    }

    fn asks<Q: ToSchema>(mut self) -> Self {
        self.query = Some(Described::of::<Q>());
        self
    }

    fn takes<B: ToSchema>(mut self) -> Self {
        self.body = Body::Json(Described::of::<B>());
        self.body_max = JSON_MAX;
        self
    }

    fn takes_bytes(mut self, max: usize) -> Self {
        self.body = Body::Bytes;
        self.body_max = max;
        self
    }

    fn gives<A: ToSchema>(mut self) -> Self {
        self.answer = Answer::Json(Described::of::<A>());
        self
    }

    fn of_atlas(self) -> Self {
        Self { prefix: ATLAS_PREFIX, ..self }
    }

    /// `get_jobs_id_log`.
    #[must_use]
    pub fn operation_id(&self) -> String {
        let whole = if self.prefix == API_PREFIX { self.path.to_owned() } else { format!("atlas{}", self.path) };
        let path: String = whole.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
        let parts = path.split('_').filter(|part| !part.is_empty());
        std::iter::once(self.method.as_str().to_lowercase().as_str()).chain(parts).collect::<Vec<_>>().join("_")
    }
}

/// Every route, in the order of the page.
#[must_use]
pub fn described_routes() -> Vec<Route> {
    own_routes().into_iter().chain(cache_routes()).chain(atlas_routes()).collect()
}

/// Our own.
#[rustfmt::skip]
fn own_routes() -> Vec<Route> {
    use Method as M;
    let mut events = Route::new(M::GET, "/events", "What happens, as it happens", events::events).asks::<EventQuery>();
    events.answer = Answer::Events(Described::of::<EventWord>());
    let mut fetch = Route::new(M::GET, "/jobs/{id}/outputs/fetch", "Bring a job's files to this node, saying how far it is", blobs::fetch_outputs).asks::<OutputsQuery>();
    fetch.answer = Answer::Events(Described::of::<FetchEvent>());
    let mut log = Route::new(M::GET, "/jobs/{id}/log", "What a job wrote, also while it runs", logs::log).asks::<LogQuery>();
    log.answer = Answer::Log(Described::of::<LogEvent>());
    let mut points = Route::new(M::GET, "/jobs/{id}/series/{key}/events", "Points of a metric as they come", points::follow).asks::<FollowQuery>();
    points.answer = Answer::Events(Described::of::<SeriesWord>());
    let mut page = Route::new(M::GET, "/openapi.json", "This page", cluster::openapi);
    page.answer = Answer::Page;
    vec![
        page,
        Route::new(M::GET, "/node", "The answering node", cluster::node).gives::<NodeInfo>(),
        Route::new(M::GET, "/status", "Nodes, what is free, unfinished jobs", cluster::status).gives::<Status>(),
        Route::new(M::GET, "/doctor", "What is wrong with this machine", cluster::doctor).gives::<Findings>(),
        Route::new(M::GET, "/storage", "Whether the object stores that this node writes to work", cluster::storage).gives::<Findings>(),
        Route::new(M::POST, "/invite", "A ticket for the next node", cluster::invite).takes::<InviteRequest>().gives::<Invitation>(),
        Route::new(M::POST, "/pause", "Take no more jobs on this node", cluster::pause).gives::<Done>(),
        Route::new(M::POST, "/resume", "Take jobs on this node again", cluster::resume).gives::<Done>(),
        Route::new(M::POST, "/shutdown", "End this node's daemon", cluster::shutdown).takes::<ShutdownRequest>().gives::<Done>(),
        Route::new(M::POST, "/gc", "Remove blobs that nothing needs", cluster::gc).takes::<CollectRequest>().gives::<Collected>(),
        events,
        Route::new(M::GET, "/nodes", "All nodes", nodes::list).gives::<Nodes>(),
        Route::new(M::GET, "/nodes/{node}", "One node, by name, id or id prefix", nodes::show).gives::<NodeWord>(),
        Route::new(M::DELETE, "/nodes/{node}", "Shut a node out for ever", nodes::remove).gives::<Done>(),
        Route::new(M::PUT, "/nodes/{node}/drained", "Whether a node takes no more jobs", nodes::drain).takes::<DrainRequest>().gives::<Done>(),
        Route::new(M::PATCH, "/nodes/{node}/labels", "Labels of a node", nodes::label).takes::<LabelRequest>().gives::<Done>(),
        Route::new(M::POST, "/bundles", "A manifest; answers which of its files are missing", blobs::bundle).takes_bytes(BODY_MAX + 64).gives::<BundleAnswer>(),
        Route::new(M::GET, "/blobs/{id}", "The bytes of a blob that is on this node", blobs::get),
        Route::new(M::POST, "/blobs/{id}/check", "Hash a blob; a damaged one is removed, so that it is fetched again", blobs::check).gives::<BlobCheck>(),
        Route::new(M::PUT, "/blobs/{id}", "Store a blob under its content id", blobs::put).takes_bytes(usize::MAX).gives::<BlobAnswer>(),
        Route::new(M::GET, "/jobs", "Jobs, the newest first", jobs::list).asks::<JobQuery>().gives::<JobPage>(),
        Route::new(M::POST, "/jobs", "Submit a job or an array", submit::submit).takes::<SubmitRequest>().gives::<SubmitAnswer>(),
        Route::new(M::GET, "/jobs/{id}", "One job, by id, unique prefix or unique name", jobs::show).gives::<JobWord>(),
        Route::new(M::DELETE, "/jobs/{id}", "Delete a job that has ended", jobs::delete).gives::<Done>(),
        Route::new(M::GET, "/jobs/{id}/members", "The jobs of an array", members::list).asks::<MemberQuery>().gives::<JobPage>(),
        Route::new(M::GET, "/jobs/{id}/explanation", "Why a job waits", jobs::explain).gives::<ExplanationWord>(),
        Route::new(M::GET, "/jobs/{id}/wait", "The job, once it has ended or the time is over", jobs::wait).asks::<WaitQuery>().gives::<JobWord>(),
        Route::new(M::POST, "/jobs/{id}/stop", "Stop a job", jobs::stop).gives::<Done>(),
        Route::new(M::POST, "/jobs/{id}/rerun", "Submit a job again as it was", submit::rerun).gives::<SubmitAnswer>(),
        Route::new(M::POST, "/jobs/{id}/parts", "Submit a part of a job that runs", submit::part).takes::<PartRequest>().gives::<SubmitAnswer>(),
        Route::new(M::PATCH, "/jobs/{id}/marks", "What people see of a job", jobs::mark).takes::<MarkRequest>().gives::<Done>(),
        Route::new(M::GET, "/jobs/{id}/outputs", "Files that a job made or changed", blobs::outputs).asks::<OutputsQuery>().gives::<Outputs>(),
        fetch,
        Route::new(M::GET, "/jobs/{id}/bundle", "Files that a job begins with", blobs::bundle_files).gives::<Outputs>(),
        Route::new(M::GET, "/jobs/{id}/diff", "Uncommitted changes of the checkout that a job was submitted from", record::diff),
        log,
        Route::new(M::GET, "/jobs/{id}/series", "Names of a job's metrics", track::names).asks::<SeriesNamesQuery>().gives::<SeriesNames>(),
        Route::new(M::GET, "/jobs/{id}/series/{key}", "Points of a metric, also while the job runs", track::series).asks::<SeriesQuery>().gives::<SeriesWord>(),
        points,
        Route::new(M::GET, "/jobs/{id}/artifacts", "Files that a job gave names", track::artifacts).gives::<Artifacts>(),
        Route::new(M::GET, "/jobs/{id}/artifacts/{file}", "The bytes of one of them", track::artifact),
        Route::new(M::POST, "/runs", "Make a job of a process that runs on this node", runs::begin).takes::<RunRequest>().gives::<RunAnswer>(),
        Route::new(M::GET, "/projects", "All projects", projects::list).gives::<Projects>(),
        Route::new(M::GET, "/projects/{name}", "One project", projects::show).gives::<ProjectWord>(),
        Route::new(M::PUT, "/projects/{name}", "Describe a project", projects::describe).takes::<ProjectRequest>().gives::<Done>(),
        Route::new(M::GET, "/projects/{name}/notes", "Notes on a project, oldest first", projects::notes).gives::<ProjectNotes>(),
        Route::new(M::POST, "/projects/{name}/notes", "Write a note on a project", projects::note).takes::<ProjectNoteRequest>().gives::<Done>(),
        Route::new(M::GET, "/secrets", "Names of this node's secrets", secrets::list).gives::<SecretNames>(),
        Route::new(M::PUT, "/secrets/{name}", "Keep a secret on this node", secrets::set).takes_bytes(SECRET_MAX + 1).gives::<Done>(),
        Route::new(M::DELETE, "/secrets/{name}", "Forget a secret", secrets::remove).gives::<Done>(),
    ]
}

/// Of cached values.
#[rustfmt::skip]
fn cache_routes() -> Vec<Route> {
    use Method as M;
    vec![
        Route::new(M::GET, "/cache/stats", "What the cache holds and saves", cache::stats).gives::<CacheStats>(),
        Route::new(M::POST, "/cache/check", "Hash the values of this node again", cache::check).takes::<CacheCheckRequest>().gives::<CacheChecked>(),
        Route::new(M::POST, "/cache/gc", "Remove the least used cached values from this node", cache::gc).takes::<CacheCollectRequest>().gives::<CacheCollected>(),
        Route::new(M::GET, "/cache/values", "Cached values, the newest first", cache::list).asks::<CacheQuery>().gives::<CacheValues>(),
        Route::new(M::GET, "/cache/values/{key}", "One value, by key or unique prefix", cache::show).gives::<CacheValue>(),
        Route::new(M::DELETE, "/cache/values/{key}", "Remove a value from every node", cache::purge).gives::<Done>(),
        Route::new(M::POST, "/cache/values/{key}/keep", "Have no node evict a value, or let it go again", cache::keep).takes::<CacheKeepRequest>().gives::<Done>(),
        Route::new(M::POST, "/cache/purge", "Remove values of a function, project or user from every node", cache::purge_many).takes::<CachePurgeRequest>().gives::<CachePurged>(),
        Route::new(M::GET, "/cache/values/{key}/why", "What differed from the nearest earlier call", cache::why).gives::<CacheWhy>(),
    ]
}

/// Atlas's tracker.
#[rustfmt::skip]
fn atlas_routes() -> Vec<Route> {
    use Method as M;
    let routes = vec![
        Route::new(M::GET, "/projects", "Projects, for Atlas's pages", atlas::list).gives::<Vec<AtlasProject>>(),
        Route::new(M::GET, "/projects/{project}/job_listing", "Jobs of a project", atlas::listing).asks::<AtlasQuery>().gives::<AtlasListing>(),
        Route::new(M::DELETE, "/projects/{project}/job_listing/{job}", "Delete a job that has ended", atlas::delete).gives::<Done>(),
        Route::new(M::GET, "/projects/{project}/job_listing/{job}/{order}", "Jobs of a project by one column, asc or desc", atlas::sorted).gives::<AtlasListing>(),
        Route::new(M::GET, "/projects/{project}/job_listing/{job}/logs", "What a job wrote", atlas::logs).gives::<AtlasLog>(),
        Route::new(M::POST, "/projects/{project}/job_listing/{job}/tags", "Put a tag on a job", atlas::tag).takes::<AtlasTagRequest>().gives::<Done>(),
        Route::new(M::DELETE, "/projects/{project}/job_listing/{job}/tags/{key}", "Take a tag off a job", atlas::untag).gives::<Done>(),
        Route::new(M::GET, "/projects/{project}/description", "What a project is", atlas::description).gives::<AtlasDescription>(),
        Route::new(M::PUT, "/projects/{project}/description", "Describe a project", atlas::describe).takes::<AtlasDescription>().gives::<AtlasDescription>(),
        Route::new(M::GET, "/projects/{project}/note_listing", "Notes on a project, oldest first", atlas::notes).gives::<Vec<AtlasNote>>(),
        Route::new(M::POST, "/projects/{project}/note_listing", "Write a note on a project", atlas::note).takes::<AtlasNoteRequest>().gives::<Done>(),
        Route::new(M::GET, "/projects/{project}/overview_metrics", "Metrics over the jobs of a project", atlas::overview).asks::<AtlasOverviewQuery>().gives::<AtlasOverview>(),
    ];
    routes.into_iter().map(Route::of_atlas).collect()
}

/// The router of all routes; streams end when `closing` turns true.
pub fn router(api: Api, closing: watch::Receiver<bool>) -> Router {
    let mut routes = Router::new();
    for route in described_routes() {
        let limit = match route.body_max {
            // Bodies of blobs are counted while they are written.
            usize::MAX => DefaultBodyLimit::disable(),
            max => DefaultBodyLimit::max(max),
        };
        routes = routes.route(&format!("{}{}", route.prefix, route.path), route.handler.layer(limit));
    }
    routes.fallback(no_route).method_not_allowed_fallback(no_method).with_state(Shared { api, closing })
}

async fn no_route() -> Refusal {
    Refusal(ErrorWord::not_found("there is no such path", "see /api/fnode/v1/openapi.json"))
}

async fn no_method(method: Method) -> Refusal {
    let message = format!("this path does not take {method}");
    Refusal(ErrorWord::new(ErrorCode::MethodNotAllowed, message, "see /api/fnode/v1/openapi.json"))
}
