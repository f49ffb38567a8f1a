//! A real S3-compatible server on loopback: moto's, from a virtual environment that `scripts/test` makes. Without one
//! the tests that need it say so and skip.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use super::{READY_MAX, wait_for};

/// Where `scripts/test` puts the virtual environment, unless this variable names the program.
const VARIABLE: &str = "FNODE_TEST_MOTO";
const BUCKET: &str = "lab-bucket";

/// A server with one bucket.
pub(crate) struct Bucket {
    program: PathBuf,
    port: u16,
    server: Option<Child>,
}

impl Drop for Bucket {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Bucket {
    /// `None`, with the reason printed: there is no such server here.
    pub(crate) fn start() -> Option<Self> {
        let fallback = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/moto/bin/moto_server");
        let program = std::env::var_os(VARIABLE).map_or_else(|| PathBuf::from(fallback), PathBuf::from);
        if !program.exists() {
            println!("skipped: no {}; scripts/test makes it where pip reaches an index", program.display());
            return None;
        }
        let mut bucket = Self { program, port: 0, server: None };
        bucket.serve();
        Some(bucket)
    }

    /// Starts the server, at the port that it had; what it held is gone.
    pub(crate) fn serve(&mut self) {
        let mut command = Command::new(&self.program);
        command.args(["-H", "127.0.0.1", "-p", &self.port.to_string()]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut server = command.spawn().expect("moto's server starts");
        let mut told = BufReader::new(server.stderr.take().expect("piped"));
        let mut line = String::new();
        while !line.contains("Running on http://") {
            line.clear();
            assert!(told.read_line(&mut line).expect("moto tells its port") > 0, "moto's server ended");
        }
        let port = line.trim().rsplit_once(':').and_then(|(_, port)| port.parse().ok());
        self.port = port.unwrap_or_else(|| panic!("moto tells no port: {line}"));
        // Its requests would fill the pipe.
        std::thread::spawn(move || std::io::copy(&mut told, &mut std::io::sink()));
        self.server = Some(server);
        let made = wait_for("the bucket", READY_MAX, || self.try_ask("PUT", "", &[]));
        assert_eq!(made.0, 200, "the bucket is made");
    }

    pub(crate) fn stop(&mut self) {
        if let Some(mut server) = self.server.take() {
            let _ = server.kill();
            let _ = server.wait();
        }
    }

    /// The end point `path` in the bucket.
    pub(crate) fn place(&self, path: &str) -> String {
        format!("s3://{BUCKET}/{path}")
    }

    /// What a daemon must be told to reach it.
    pub(crate) fn variables(&self) -> Vec<(String, String)> {
        let address = format!("http://127.0.0.1:{}", self.port);
        let pairs = [
            ("AWS_ENDPOINT_URL", address.as_str()),
            ("AWS_ALLOW_HTTP", "true"),
            ("AWS_ACCESS_KEY_ID", "lab"),
            ("AWS_SECRET_ACCESS_KEY", "hunter2"),
            ("AWS_REGION", "us-east-1"),
        ];
        pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec()
    }

    /// An object's bytes; the path as it is written in an address.
    pub(crate) fn get(&self, path: &str) -> Option<Vec<u8>> {
        let (status, body) = self.ask("GET", path, &[]);
        (status == 200).then_some(body)
    }

    pub(crate) fn put(&self, path: &str, bytes: &[u8]) {
        assert_eq!(self.ask("PUT", path, bytes).0, 200, "{path} is put");
    }

    /// The bucket's own list of what is below `prefix`, as XML.
    pub(crate) fn list(&self, prefix: &str) -> String {
        let (_, body) = self.ask("GET", &format!("?list-type=2&prefix={prefix}"), &[]);
        String::from_utf8_lossy(&body).into_owned()
    }

    fn ask(&self, method: &str, path: &str, body: &[u8]) -> (u16, Vec<u8>) {
        self.try_ask(method, path, body).expect("moto answers")
    }

    fn try_ask(&self, method: &str, path: &str, body: &[u8]) -> Option<(u16, Vec<u8>)> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).ok()?;
        let path = if path.is_empty() || path.starts_with('?') { path.to_owned() } else { format!("/{path}") };
        let head = format!(
            "{method} /{BUCKET}{path} HTTP/1.0\r\nHost: 127.0.0.1:{}\r\nAuthorization: AWS lab:x\r\nContent-Length: {}\r\n\r\n",
            self.port,
            body.len()
        );
        stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body)).ok()?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).ok()?;
        let end = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n")?;
        let status = String::from_utf8_lossy(&answer[..end]).split(' ').nth(1)?.parse().ok()?;
        Some((status, answer.split_off(end + 4)))
    }
}
