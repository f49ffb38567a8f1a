//! The compute benchmark: how many f32 operations an adapter does in a second, and how fast it copies its
//! memory. A relative score of shader code, not of tensor cores: it compares the cards of a mixed lab. Runs only
//! in the probe's child process, because drivers crash in here.

use std::num::NonZeroU64;
use std::time::{Duration, Instant};

use super::Score;

/// Long enough that starting the work is noise, short enough for a desktop that draws on the same card.
const RUN: Duration = Duration::from_millis(150);
/// Runs whose median counts, after the calibration has warmed the card up.
const RUNS: usize = 3;
/// A submission that takes longer is a driver that hangs.
const SUBMISSION_MAX: Duration = Duration::from_secs(20);
/// 2^21 threads keep the widest card (some 300,000 in flight) busy several times over.
const GROUPS: u32 = 8_192;
const GROUP_THREADS: u64 = 256;
/// Floating-point operations of one thread in one round: 4 steps x 8 chains x 4 lanes x 2.
const OPERATIONS: u64 = 4 * 8 * 4 * 2;
const ROUNDS_MAX: u32 = 1 << 20;
/// Copied by one dispatch where the limits allow it: well past the caches of today's cards.
const COPY_BYTES: u64 = 256 << 20;
const COPIES_MAX: u32 = 4_096;

// Eight independent chains hide the latency of a fused multiply-add on every architecture; the factor keeps the
// values finite, and storing the sum keeps the compiler from leaving the work out.
const COMPUTE: &str = "
@group(0) @binding(0) var<storage, read_write> sums: array<vec4<f32>>;
@group(0) @binding(1) var<uniform> rounds: vec4<u32>;
@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let x = f32(id.x & 1023u) * 0.0009765625;
    let m = vec4<f32>(0.9990234375, 0.998046875, 0.9970703125, 0.99609375);
    var a = vec4<f32>(x); var b = a + 1.0; var c = a + 2.0; var d = a + 3.0;
    var e = a + 4.0; var f = a + 5.0; var g = a + 6.0; var h = a + 7.0;
    for (var i = 0u; i < rounds.x; i++) {
        a = fma(a, m, m); b = fma(b, m, m); c = fma(c, m, m); d = fma(d, m, m);
        e = fma(e, m, m); f = fma(f, m, m); g = fma(g, m, m); h = fma(h, m, m);
        a = fma(a, m, m); b = fma(b, m, m); c = fma(c, m, m); d = fma(d, m, m);
        e = fma(e, m, m); f = fma(f, m, m); g = fma(g, m, m); h = fma(h, m, m);
        a = fma(a, m, m); b = fma(b, m, m); c = fma(c, m, m); d = fma(d, m, m);
        e = fma(e, m, m); f = fma(f, m, m); g = fma(g, m, m); h = fma(h, m, m);
        a = fma(a, m, m); b = fma(b, m, m); c = fma(c, m, m); d = fma(d, m, m);
        e = fma(e, m, m); f = fma(f, m, m); g = fma(g, m, m); h = fma(h, m, m);
    }
    sums[id.x & 65535u] = (a + b) + (c + d) + ((e + f) + (g + h));
}";
const SUMS_BYTES: u64 = 65_536 * 16;

const COPY: &str = "
@group(0) @binding(0) var<storage, read_write> to: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> source: array<vec4<f32>>;
@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let n = arrayLength(&source);
    for (var i = id.x; i < n; i += groups.x * 256u) {
        to[i] = source[i];
    }
}";

/// Measures `adapter`: calibrated first, which also warms it up, then the median of three runs for each number.
///
/// # Errors
/// In words, when the device cannot be had or stops answering. Out of memory and invalid work panic inside wgpu,
/// which ends the child; its parent tells that apart.
pub(super) async fn measure(adapter: &wgpu::Adapter) -> Result<Score, String> {
    let descriptor = wgpu::DeviceDescriptor {
        label: Some("fnode benchmark"),
        // The defaults would cap a binding at 128 MiB.
        required_limits: adapter.limits(),
        ..wgpu::DeviceDescriptor::default()
    };
    let (device, queue) = adapter.request_device(&descriptor).await.map_err(|error| error.to_string())?;
    let bench = Bench { device, queue };
    Ok(Score { gflops: bench.compute()?, gbytes_per_s: bench.copy(&adapter.limits())? })
}

struct Bench {
    device: wgpu::Device,
    queue: wgpu::Queue,
}

impl Bench {
    fn compute(&self) -> Result<f64, String> {
        let sums = self.buffer(SUMS_BYTES, wgpu::BufferUsages::STORAGE);
        let rounds = self.buffer(16, wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST);
        let kernel = self.kernel(COMPUTE, &sums, &rounds);
        let run = |count: u32| {
            let mut bytes = [0; 16];
            bytes[..4].copy_from_slice(&count.to_le_bytes());
            self.queue.write_buffer(&rounds, 0, &bytes);
            self.time(&kernel, GROUPS, 1)
        };
        let (count, seconds) = median_of_runs(ROUNDS_MAX, run)?;
        let operations = u64::from(GROUPS) * GROUP_THREADS * OPERATIONS * u64::from(count);
        Ok(per_second(operations, seconds))
    }

    fn copy(&self, limits: &wgpu::Limits) -> Result<f64, String> {
        let bytes = COPY_BYTES.min(limits.max_storage_buffer_binding_size).min(limits.max_buffer_size) & !0xffff;
        let source = self.buffer(bytes, wgpu::BufferUsages::STORAGE);
        let to = self.buffer(bytes, wgpu::BufferUsages::STORAGE);
        let kernel = self.kernel(COPY, &to, &source);
        let (copies, seconds) = median_of_runs(COPIES_MAX, |copies| self.time(&kernel, GROUPS, copies))?;
        Ok(per_second(2 * bytes * u64::from(copies), seconds))
    }

    fn buffer(&self, size: u64, usage: wgpu::BufferUsages) -> wgpu::Buffer {
        self.device.create_buffer(&wgpu::BufferDescriptor { label: None, size, usage, mapped_at_creation: false })
    }

    fn kernel(&self, code: &str, first: &wgpu::Buffer, second: &wgpu::Buffer) -> Kernel {
        let module = self.device.create_shader_module(wgpu::ShaderModuleDescriptor {
            label: None,
            source: wgpu::ShaderSource::Wgsl(code.into()),
        });
        let pipeline = self.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: None,
            layout: None,
            module: &module,
            entry_point: Some("main"),
            compilation_options: wgpu::PipelineCompilationOptions::default(),
            cache: None,
        });
        let whole =
            |buffer| wgpu::BindingResource::Buffer(wgpu::BufferBinding { buffer, offset: 0, size: None::<NonZeroU64> });
        let bindings = self.device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: None,
            layout: &pipeline.get_bind_group_layout(0),
            entries: &[
                wgpu::BindGroupEntry { binding: 0, resource: whole(first) },
                wgpu::BindGroupEntry { binding: 1, resource: whole(second) },
            ],
        });
        Kernel { pipeline, bindings }
    }

    /// Seconds from submission to completion of `times` dispatches.
    fn time(&self, kernel: &Kernel, groups: u32, times: u32) -> Result<f64, String> {
        let mut encoder = self.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        {
            let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
            pass.set_pipeline(&kernel.pipeline);
            pass.set_bind_group(0, &kernel.bindings, &[]);
            for _ in 0..times {
                pass.dispatch_workgroups(groups, 1, 1);
            }
        }
        let commands = encoder.finish();
        let start = Instant::now();
        let submission_index = Some(self.queue.submit([commands]));
        let wait = wgpu::PollType::Wait { submission_index, timeout: Some(SUBMISSION_MAX) };
        self.device.poll(wait).map_err(|error| error.to_string())?;
        Ok(start.elapsed().as_secs_f64())
    }
}

struct Kernel {
    pipeline: wgpu::ComputePipeline,
    bindings: wgpu::BindGroup,
}

/// Raises the amount of work until a run is long enough, then times [`RUNS`] of them. Returns the amount and
/// the median of the seconds.
fn median_of_runs(amount_max: u32, mut run: impl FnMut(u32) -> Result<f64, String>) -> Result<(u32, f64), String> {
    let mut amount = 1;
    loop {
        let seconds = run(amount)?;
        if seconds >= RUN.as_secs_f64() / 2.0 || amount >= amount_max {
            break;
        }
        // At most eightfold: the first run, which compiles, looks slower than the next.
        let factor = (RUN.as_secs_f64() / seconds.max(1e-6)).clamp(2.0, 8.0);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 2 and 8")]
        let factor = factor as u32;
        amount = amount.saturating_mul(factor).min(amount_max);
    }
    let mut seconds = Vec::with_capacity(RUNS);
    for _ in 0..RUNS {
        seconds.push(run(amount)?);
    }
    seconds.sort_by(f64::total_cmp);
    Ok((amount, seconds[RUNS / 2]))
}

/// In thousands of millions a second.
#[expect(clippy::cast_precision_loss, reason = "a score of three digits")]
fn per_second(amount: u64, seconds: f64) -> f64 {
    amount as f64 / seconds.max(1e-9) / 1e9
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_work_is_raised_until_a_run_is_long_enough_and_the_median_counts() {
        let mut calls = Vec::new();
        let (amount, seconds) = median_of_runs(1 << 20, |amount| {
            calls.push(amount);
            // The second of the three runs that count is disturbed.
            let disturbed = if calls.len() == 6 { 10.0 } else { 1.0 };
            Ok(f64::from(amount) * 0.001 * disturbed)
        })
        .unwrap();
        assert_eq!(calls, [1, 8, 64, 128, 128, 128, 128]);
        assert_eq!((amount, seconds), (128, 0.128));
    }

    #[test]
    fn a_card_that_is_faster_than_any_bound_and_one_that_fails_end_the_calibration() {
        assert_eq!(median_of_runs(100, |_| Ok(0.0)), Ok((100, 0.0)));
        assert_eq!(median_of_runs(100, |_| Err("lost".to_owned())), Err("lost".to_owned()));
        assert!(per_second(1 << 40, 0.0).is_finite());
    }
}
