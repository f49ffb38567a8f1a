//! A laboratory: a cluster of real `fnode` processes on this machine, in a directory of its own, driven through
//! the command line as users drive it. Tests start nodes, kill them, start them again and wait for conditions.
//! Everything that it started is killed when it is dropped; after a failure it first tells what each node saw.
//!
//! It looks into no file that the command line could tell of, except to find processes.
#![allow(dead_code, reason = "each test binary uses a part of it")]

mod binary;
pub(crate) mod bucket;
pub(crate) mod network;
pub(crate) mod output;
pub(crate) mod processes;

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

use self::network::Network;
use self::output::{Output, list, text};
use self::processes::Kind;

/// A node answers, and nodes see each other, well within this, also while both cores are busy.
pub(crate) const READY_MAX: Duration = Duration::from_secs(30);
/// A job that has a free node has ended within this.
pub(crate) const SOON: Duration = Duration::from_secs(30);
/// A job whose node was silenced or lost has ended elsewhere within this: a daemon that does not answer while
/// its machine does is given 30 s to come back (DESIGN §6), the rest is for slow machines.
pub(crate) const LATE: Duration = Duration::from_secs(90);
/// Conditions are looked at this often.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// No command takes longer, unless it waits for a job with a longer limit of its own.
const COMMAND_MAX_S: &str = "120";
/// Lines of each log that a failure shows.
const TAIL_LINES: usize = 40;

/// How a node is started.
#[derive(Clone, Debug)]
pub(crate) struct Launch {
    /// Processors that it offers.
    pub(crate) cpus: u32,
    /// Whether its runner starts the daemon again after a crash.
    pub(crate) respawn: bool,
    /// Further flags.
    pub(crate) args: Vec<String>,
    /// Variables of the daemon.
    pub(crate) env: Vec<(String, String)>,
}

/// One node, running or not.
pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) home: PathBuf,
    launch: Launch,
    daemon: Option<Child>,
    /// Where it listened: a restarted node is found again at the same address.
    listen: String,
}

/// A cluster of nodes.
pub(crate) struct Lab {
    nodes: Vec<Node>,
    network: Option<Network>,
    dir: TempDir,
}

impl Default for Launch {
    fn default() -> Self {
        Self { cpus: 2, respawn: false, args: Vec::new(), env: Vec::new() }
    }
}

impl Lab {
    /// No node yet.
    pub(crate) fn empty() -> Self {
        let dir = tempfile::Builder::new().prefix("fnode-lab-").tempdir().expect("a temporary directory");
        Self { nodes: Vec::new(), network: None, dir }
    }

    /// `count` nodes of one cluster, `n0` to `nK`, that all see each other.
    pub(crate) fn start(count: usize) -> Self {
        Self::start_with(count, &Launch::default())
    }

    /// As [`Lab::start`], each node started as `launch` says.
    pub(crate) fn start_with(count: usize, launch: &Launch) -> Self {
        let mut lab = Self::empty();
        lab.grow(count, launch);
        lab
    }

    /// As [`Lab::start`], each node in a network namespace of its own on `network`.
    pub(crate) fn start_on(network: Network, count: usize) -> Self {
        let mut lab = Self::empty();
        lab.network = Some(network);
        lab.grow(count, &Launch::default());
        lab
    }

    fn grow(&mut self, count: usize, launch: &Launch) {
        for _ in 0..count {
            self.add(launch);
        }
        let all: Vec<usize> = (0..count).collect();
        self.wait_for_members(&all);
    }

    /// Starts one more node; it joins the first one's cluster.
    pub(crate) fn add(&mut self, launch: &Launch) -> usize {
        let join = (!self.nodes.is_empty()).then(|| self.invite(0));
        let node = self.add_apart(launch);
        self.launch(node, join.as_deref());
        self.wait_until_ready(node);
        node
    }

    /// One more node that is not started yet and belongs to no cluster.
    pub(crate) fn add_apart(&mut self, launch: &Launch) -> usize {
        let index = self.nodes.len();
        let name = format!("n{index}");
        let address = self.network.as_mut().map_or_else(|| "127.0.0.1".to_owned(), |network| network.plug(index));
        self.nodes.push(Node {
            home: self.dir.path().join(&name),
            name,
            launch: launch.clone(),
            daemon: None,
            listen: format!("{address}:0"),
        });
        index
    }

    /// The ticket's text that `node` prints.
    pub(crate) fn invite(&self, node: usize) -> String {
        text(&self.json(node, &["invite"]), "ticket").to_owned()
    }

    /// Starts the daemon of `node`; does not wait until it answers.
    pub(crate) fn launch(&mut self, node: usize, ticket: Option<&str>) {
        let arguments = self.start_arguments(node, ticket);
        let log = self.log_path(node);
        let log = OpenOptions::new().create(true).append(true).open(log).expect("the daemon's log opens");
        let mut command = self.program(node);
        command.args(arguments).stdin(Stdio::null());
        command.stdout(log.try_clone().expect("a descriptor")).stderr(log);
        command.envs(self.nodes[node].launch.env.iter().cloned());
        command.env("FNODE_RESPAWN", if self.nodes[node].launch.respawn { "1" } else { "0" });
        self.nodes[node].daemon = Some(command.spawn().expect("fnode can be started"));
    }

    /// Runs `fnode start` of `node` to its end: for starts that are refused.
    pub(crate) fn launch_refused(&self, node: usize, ticket: Option<&str>) -> Output {
        let arguments = self.start_arguments(node, ticket);
        let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
        self.run(node, &words)
    }

    fn start_arguments(&self, node: usize, ticket: Option<&str>) -> Vec<String> {
        let Node { name, listen, launch, .. } = &self.nodes[node];
        let cpus = launch.cpus.to_string();
        let fixed = ["start", "--listen", listen, "--api", "127.0.0.1:0", "--no-mdns", "--name", name];
        let fixed = fixed.into_iter().chain(["--cpus", &cpus, "--gpus", "0"]).map(ToOwned::to_owned);
        let mut arguments: Vec<String> = fixed.chain(launch.args.iter().cloned()).collect();
        arguments.extend(["--home".to_owned(), self.home(node).display().to_string()]);
        if let Some(ticket) = ticket {
            let path = self.path(&format!("{name}.ticket"));
            std::fs::write(&path, ticket).expect("the ticket can be written");
            arguments.extend(["--join".to_owned(), path.display().to_string()]);
        }
        arguments
    }

    /// Waits until the daemon that was launched last answers, and notes where it listens.
    #[track_caller]
    pub(crate) fn wait_until_ready(&mut self, node: usize) {
        let status = wait_for(&format!("n{node} answers"), READY_MAX, || {
            assert!(self.has_daemon(node), "the daemon of n{node} ended by itself");
            let told = self.fnode(node, &["status", "--json"]);
            let status = (told.code == 0).then(|| told.json())?;
            let mine = self.nodes[node].daemon.as_ref().map(Child::id);
            (status["node"]["pid"].as_u64() == mine.map(u64::from)).then_some(status)
        });
        let listens = list(&status["node"], "addrs").iter().filter_map(Value::as_str).find_map(socket_address);
        self.nodes[node].listen = listens.unwrap_or_else(|| panic!("n{node} tells no address: {status}"));
    }

    /// Whether the daemon that was launched last still runs.
    fn has_daemon(&self, node: usize) -> bool {
        self.nodes[node].daemon.as_ref().is_some_and(|child| processes::is_alive(child.id()))
    }

    /// Waits until each of `nodes` sees exactly these alive and taking work.
    #[track_caller]
    pub(crate) fn wait_for_members(&self, nodes: &[usize]) {
        let wanted: Vec<&str> = nodes.iter().map(|&node| self.name(node)).collect();
        for &node in nodes {
            wait_for(&format!("n{node} sees {wanted:?}"), READY_MAX, || {
                let mut seen = self.alive(node);
                seen.sort();
                (seen == wanted).then_some(())
            });
        }
    }

    /// Names of the nodes that `node` sees alive and taking work.
    pub(crate) fn alive(&self, node: usize) -> Vec<String> {
        let told = self.fnode(node, &["node", "list", "--json"]);
        let Some(nodes) = (told.code == 0).then(|| told.json()) else { return Vec::new() };
        let takes = |node: &&Value| text(node, "presence") == "alive" && text(node, "accepting") == "yes";
        list(&nodes, "nodes").iter().filter(takes).map(|node| text(node, "name").to_owned()).collect()
    }

    /// Waits until `watcher` no longer sees `node` alive.
    #[track_caller]
    pub(crate) fn wait_until_missed(&self, watcher: usize, node: usize) {
        wait_for(&format!("n{watcher} misses n{node}"), READY_MAX, || {
            let nodes = self.json(watcher, &["node", "list"]);
            let word = list(&nodes, "nodes").iter().find(|word| text(word, "name") == self.name(node));
            word.is_none_or(|word| matches!(text(word, "presence"), "down" | "daemon_down")).then_some(())
        });
    }

    // ---- Deaths and returns ----

    /// SIGKILL to the daemon alone; runner and jobs go on.
    pub(crate) fn kill9(&mut self, node: usize) {
        if self.nodes[node].launch.respawn {
            // Its runner may have started a later one; that is nobody's child here.
            processes::signal(self.home(node), Signal::KILL, |kind| kind == Kind::Daemon);
        }
        self.reap(node);
    }

    /// The machine loses power: daemon, runner and jobs are gone before any can notice another's death. To
    /// other nodes its ports refuse connections, as those of a machine that has booted again.
    pub(crate) fn kill_host(&mut self, node: usize) {
        processes::signal(self.home(node), Signal::STOP, |kind| matches!(kind, Kind::Runner | Kind::Daemon));
        processes::kill(self.home(node), |kind| kind != Kind::Other);
        self.reap(node);
    }

    /// The machine hangs: its jobs are dead and its daemon answers nothing, but its ports still accept.
    pub(crate) fn silence_host(&self, node: usize) {
        processes::signal(self.home(node), Signal::STOP, |kind| matches!(kind, Kind::Runner | Kind::Daemon));
        processes::kill(self.home(node), |kind| kind == Kind::Job);
    }

    /// Kills the child and takes its exit status.
    fn reap(&mut self, node: usize) {
        if let Some(mut child) = self.nodes[node].daemon.take() {
            // Dead already, perhaps.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Starts `node` again where it was, and waits until it answers.
    #[track_caller]
    pub(crate) fn restart(&mut self, node: usize) {
        self.reap(node);
        self.launch(node, None);
        self.wait_until_ready(node);
    }

    /// Ends the daemon of `node` as users do.
    #[track_caller]
    pub(crate) fn shutdown(&mut self, node: usize) {
        self.fnode(node, &["shutdown"]).ok();
        if let Some(mut child) = self.nodes[node].daemon.take() {
            wait_for(&format!("the daemon of n{node} ends"), READY_MAX, || child.try_wait().expect("a child"));
        }
    }

    /// Removes the data directory of `node`.
    pub(crate) fn delete_home(&self, node: usize) {
        std::fs::remove_dir_all(self.home(node)).expect("the data directory can be removed");
    }

    // ---- Commands ----

    /// Runs `fnode ARGS` against `node`.
    pub(crate) fn fnode(&self, node: usize, args: &[&str]) -> Output {
        self.run(node, &self.with_home(node, args))
    }

    /// `args` with `--home`, before a `--` that begins a job's command.
    fn with_home<'a>(&'a self, node: usize, args: &[&'a str]) -> Vec<&'a str> {
        let home = self.home(node).to_str().expect("the laboratory's paths are UTF-8");
        let split = args.iter().position(|&word| word == "--").unwrap_or(args.len());
        [&args[..split], &["--home", home], &args[split..]].concat()
    }

    /// Runs `fnode WORDS` as they are.
    pub(crate) fn run(&self, node: usize, words: &[&str]) -> Output {
        let mut command = Command::new("timeout");
        command.args(["--signal=KILL", COMMAND_MAX_S]).arg(binary::fnode()).args(words);
        command.current_dir(self.dir.path()).env_remove("FNODE_HOME").env("NO_COLOR", "1").stdin(Stdio::null());
        let finished = command.output().expect("fnode can be started");
        Output::new(format!("n{node}: fnode {}", words.join(" ")), &finished)
    }

    /// Runs `fnode ARGS` with `input` as its standard input.
    pub(crate) fn fnode_fed(&self, node: usize, args: &[&str], input: &[u8]) -> Output {
        let words = self.with_home(node, args);
        let mut command = Command::new(binary::fnode());
        command.args(&words).current_dir(self.dir.path()).env_remove("FNODE_HOME");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("fnode can be started");
        child.stdin.take().expect("piped").write_all(input).expect("fnode reads its input");
        let finished = child.wait_with_output().expect("a child");
        Output::new(format!("n{node}: fnode {}", words.join(" ")), &finished)
    }

    /// The JSON that `fnode ARGS --json` prints; the command must succeed.
    #[track_caller]
    pub(crate) fn json(&self, node: usize, args: &[&str]) -> Value {
        self.fnode(node, &[&["--json"], args].concat()).ok().json()
    }

    /// Submits `script` for a shell, without a bundle; returns what `submit --json` says.
    #[track_caller]
    pub(crate) fn submit(&self, node: usize, options: &[&str], script: &str) -> Value {
        let command = ["--", "sh", "-c", script];
        self.json(node, &[&["submit", "--no-bundle", "--project", "lab"], options, &command].concat())
    }

    /// As [`Lab::submit`]; returns only the job's id.
    #[track_caller]
    pub(crate) fn submit_id(&self, node: usize, options: &[&str], script: &str) -> String {
        text(&self.submit(node, options, script), "id").to_owned()
    }

    /// What `node` knows of a job.
    #[track_caller]
    pub(crate) fn job(&self, node: usize, job: &str) -> Value {
        self.json(node, &["job", "show", job])
    }

    /// Waits until `node` sees that a job, or every job of an array, has ended; returns what it knows of it then.
    #[track_caller]
    pub(crate) fn wait_ended(&self, node: usize, job: &str, limit: Duration) -> Value {
        self.wait_state(node, job, limit, &["completed", "failed", "stopped"])
    }

    /// Waits until `node` sees a job in one of `states`.
    #[track_caller]
    pub(crate) fn wait_state(&self, node: usize, job: &str, limit: Duration, states: &[&str]) -> Value {
        wait_for(&format!("n{node} sees {job} {}", states.join(" or ")), limit, || {
            let told = self.fnode(node, &["job", "show", job, "--json"]);
            let word = (told.code == 0).then(|| told.json())?;
            states.contains(&text(&word, "state")).then_some(word)
        })
    }

    /// The jobs of an array as `node` lists them, in the order of their indices.
    #[track_caller]
    pub(crate) fn members(&self, node: usize, array: &str) -> Vec<Value> {
        let page = self.json(node, &["jobs", "--limit", "1000", array]);
        let mut members = list(&page, "jobs").to_vec();
        members.sort_by_key(|line| text(line, "id").rsplit('/').next().and_then(|index| index.parse::<u64>().ok()));
        members
    }

    /// What a job wrote, as `node` tells it.
    #[track_caller]
    pub(crate) fn logs(&self, node: usize, job: &str) -> String {
        self.fnode(node, &["logs", job]).ok().stdout
    }

    // ---- Names and paths ----

    pub(crate) fn name(&self, node: usize) -> &str {
        &self.nodes[node].name
    }

    /// Which node has this name.
    #[track_caller]
    pub(crate) fn index(&self, name: &str) -> usize {
        let found = self.nodes.iter().position(|node| node.name == name);
        found.unwrap_or_else(|| panic!("there is no node {name:?}"))
    }

    pub(crate) fn home(&self, node: usize) -> &Path {
        &self.nodes[node].home
    }

    /// The next start of `node` is told to listen on any port.
    pub(crate) fn listen_anywhere(&mut self, node: usize) {
        let address = self.nodes[node].listen.rsplit_once(':').map_or("127.0.0.1", |(address, _)| address).to_owned();
        self.nodes[node].listen = format!("{address}:0");
    }

    /// Where the daemon of `node` listens or listened, `ADDRESS:PORT`.
    pub(crate) fn listen(&self, node: usize) -> &str {
        &self.nodes[node].listen
    }

    /// A path in the laboratory's directory that jobs of all nodes and the test share.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A directory `bundle` with these files; returns its path.
    pub(crate) fn bundle(&self, files: &[(&str, &[u8])]) -> String {
        let bundle = self.path("bundle");
        for (name, bytes) in files {
            let path = bundle.join(name);
            std::fs::create_dir_all(path.parent().expect("it lies in the bundle")).expect("a directory can be made");
            std::fs::write(path, bytes).expect("a file can be written");
        }
        bundle.to_str().expect("the laboratory's paths are UTF-8").to_owned()
    }

    /// Creates an empty file that jobs wait for.
    pub(crate) fn touch(&self, name: &str) {
        File::create(self.path(name)).expect("a file can be made");
    }

    pub(crate) fn network(&self) -> &Network {
        self.network.as_ref().expect("this laboratory has a network of its own")
    }

    fn log_path(&self, node: usize) -> PathBuf {
        self.path(&format!("{}.log", self.name(node)))
    }

    /// `fnode`, in the node's namespace where it has one.
    fn program(&self, node: usize) -> Command {
        let mut command = match &self.network {
            Some(network) => network.command_in(node, binary::fnode()),
            None => Command::new(binary::fnode()),
        };
        // A respawned daemon must find its directory by its own means; this only lets the laboratory find it.
        command.env(processes::MARK, self.home(node)).env_remove("FNODE_HOME");
        command.env("HOME", self.dir.path()).current_dir(self.dir.path());
        command
    }

    /// What each node saw, for a failed test.
    fn dump(&self) {
        for (index, node) in self.nodes.iter().enumerate() {
            eprintln!("==== {} ({}) processes {:?}", node.name, node.listen, processes::of(&node.home));
            // A silenced daemon would answer nothing.
            let status = Command::new("timeout")
                .args(["--signal=KILL", "5"])
                .arg(binary::fnode())
                .args(["status", "--home"])
                .arg(&node.home)
                .output();
            if let Ok(status) = status {
                let (out, err) = (String::from_utf8_lossy(&status.stdout), String::from_utf8_lossy(&status.stderr));
                eprintln!("{out}{err}");
            }
            for log in [self.log_path(index), node.home.join("run/daemon.log"), node.home.join("run/runner.log")] {
                print_tail(&log);
            }
        }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.dump();
        }
        for node in 0..self.nodes.len() {
            processes::signal(self.home(node), Signal::STOP, |kind| matches!(kind, Kind::Runner | Kind::Daemon));
        }
        for node in 0..self.nodes.len() {
            processes::kill(self.home(node), |_| true);
            self.reap(node);
        }
    }
}

/// Waits until `look` finds something, at most `limit`. Nodes tell their side when the test's laboratory is dropped.
#[track_caller]
pub(crate) fn wait_for<T>(what: &str, limit: Duration, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited {} s in vain until {what}", limit.as_secs());
        std::thread::sleep(LOOK_EVERY);
    }
}

/// `/ip4/127.0.0.1/tcp/4680/p2p/…` as `127.0.0.1:4680`.
fn socket_address(multiaddr: &str) -> Option<String> {
    let mut parts = multiaddr.split('/').skip(1);
    match (parts.next()?, parts.next()?, parts.next()?, parts.next()?) {
        ("ip4", ip, "tcp", port) => Some(format!("{ip}:{port}")),
        _ => None,
    }
}

fn print_tail(path: &Path) {
    let Ok(bytes) = std::fs::read(path) else { return };
    let all = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = all.lines().collect();
    eprintln!("---- {}", path.display());
    for line in &lines[lines.len().saturating_sub(TAIL_LINES)..] {
        eprintln!("{line}");
    }
}
