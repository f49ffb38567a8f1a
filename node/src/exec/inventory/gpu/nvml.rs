//! NVIDIA's management library, loaded at run time: names, UUIDs, memory and who uses it. It runs in a thread
//! of its own, because a driver that has lost its card answers never. Without driver the thread ends at once.

use std::sync::{Mutex, mpsc};
use std::thread;
use std::time::Duration;

use nvml_wrapper::enums::device::UsedGpuMemory;
use nvml_wrapper::struct_wrappers::device::ProcessInfo;
use nvml_wrapper::{Device, Nvml};
use proto::ByteSize;

use super::GpuProcess;
use super::join::pci_address;

/// One NVIDIA device that jobs can be given: a whole card, or one instance of a divided card (MIG).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NvmlGpu {
    /// As `GPU-…` or `MIG-…`: what `CUDA_VISIBLE_DEVICES` takes.
    pub uuid: String,
    /// As `NVIDIA H200`.
    pub name: String,
    /// As `0000:17:00.0`; the instances of one card share it.
    pub pci: String,
    /// PCI device id.
    pub device: u32,
    /// The driver's version.
    pub driver: String,
    /// As `12.4`.
    pub cuda: String,
    /// Bytes.
    pub memory: u64,
    /// Bytes that no process holds.
    pub memory_free: u64,
    /// Part of the last second in which it computed; `None`: it does not tell.
    pub percent: Option<u32>,
    /// Whoever computes or draws on it now.
    pub processes: Vec<GpuProcess>,
    /// Whether someone computes on it now.
    pub computing: bool,
}

/// Why NVML says nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NvmlError {
    /// No library, no driver, or no right to use it.
    #[error("NVIDIA's management library cannot be used: {0}")]
    Unavailable(String),
    /// It was asked and has not answered in time.
    #[error("NVIDIA's driver does not answer; look at `dmesg` and `nvidia-smi`, the machine may need a restart")]
    Silent,
}

type Answer = Result<Vec<NvmlGpu>, NvmlError>;

/// Asks NVML through its thread; nobody waits longer than they said.
#[derive(Debug, Default)]
pub struct NvmlWatch {
    worker: Mutex<Option<Worker>>,
}

#[derive(Debug)]
struct Worker {
    questions: mpsc::SyncSender<()>,
    answers: mpsc::Receiver<Answer>,
    /// An answer is still owed from an earlier question.
    owed: bool,
}

impl NvmlWatch {
    /// The devices as they are now, waiting at most `limit`, and as long again for the driver to initialise
    /// at the first call. After an error of the library the next call tries from the start.
    ///
    /// # Errors
    /// [`NvmlError::Unavailable`] is normal where there is no NVIDIA driver.
    pub fn ask(&self, limit: Duration) -> Answer {
        let mut slot = self.worker.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let first = slot.is_none();
        let worker = slot.get_or_insert_with(Worker::start);
        let answer = worker.ask(if first { limit * 2 } else { limit });
        if matches!(answer, Err(NvmlError::Unavailable(_))) {
            *slot = None;
        }
        answer
    }
}

impl Worker {
    fn start() -> Self {
        let (questions, asked) = mpsc::sync_channel::<()>(1);
        let (answer, answers) = mpsc::sync_channel(1);
        thread::spawn(move || {
            let nvml = match Nvml::init() {
                Ok(nvml) => nvml,
                Err(error) => {
                    let _ = answer.send(Err(NvmlError::Unavailable(error.to_string())));
                    return;
                }
            };
            // Ends when the watch is dropped.
            while asked.recv().is_ok() {
                let seen = devices(&nvml).map_err(|error| NvmlError::Unavailable(error.to_string()));
                if answer.send(seen).is_err() {
                    return;
                }
            }
        });
        Self { questions, answers, owed: false }
    }

    fn ask(&mut self, limit: Duration) -> Answer {
        if self.owed {
            // A late answer is old news; only that it came matters.
            match self.answers.try_recv() {
                Err(mpsc::TryRecvError::Empty) => return Err(NvmlError::Silent),
                Ok(Err(error)) => return Err(error),
                Ok(Ok(_)) | Err(mpsc::TryRecvError::Disconnected) => self.owed = false,
            }
        }
        // A thread that ended has left the reason in `answers`.
        let _ = self.questions.try_send(());
        match self.answers.recv_timeout(limit) {
            Ok(answer) => answer,
            Err(mpsc::RecvTimeoutError::Timeout) => {
                self.owed = true;
                Err(NvmlError::Silent)
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => Err(NvmlError::Unavailable("its thread ended".to_owned())),
        }
    }
}

fn devices(nvml: &Nvml) -> Result<Vec<NvmlGpu>, nvml_wrapper::error::NvmlError> {
    let driver = nvml.sys_driver_version().unwrap_or_default();
    let cuda = nvml
        .sys_cuda_driver_version()
        .map(|version| format!("{}.{}", version / 1000, version % 1000 / 10))
        .unwrap_or_default();
    let mut found = Vec::new();
    for index in 0..nvml.device_count()? {
        // A card that has failed must not hide the others.
        let Ok(device) = nvml.device_by_index(index) else { continue };
        let divided = device.mig_mode().is_ok_and(|mode| mode.current == 1);
        let instances = if divided { device.mig_device_count().unwrap_or(0) } else { 0 };
        let parts: Vec<Device<'_>> = if divided {
            // The numbers of instances may have gaps; the library says so with an error.
            (0..instances).filter_map(|n| device.mig_device_by_index(n).ok()).collect()
        } else {
            Vec::new()
        };
        if divided {
            found.extend(parts.iter().filter_map(|part| describe(part, &device, &driver, &cuda)));
        } else {
            found.extend(describe(&device, &device, &driver, &cuda));
        }
    }
    Ok(found)
}

/// `part` is the card itself or an instance of it.
fn describe(part: &Device<'_>, card: &Device<'_>, driver: &str, cuda: &str) -> Option<NvmlGpu> {
    let uuid = part.uuid().ok()?;
    let pci = card.pci_info().ok()?;
    // Cards that share the machine's memory (Grace, Jetson) have none of their own to tell.
    let (memory, memory_free) = part.memory_info().map_or((0, 0), |memory| (memory.total, memory.free));
    let computing = part.running_compute_processes().unwrap_or_default();
    let drawing = part.running_graphics_processes().unwrap_or_default();
    let is_computing = !computing.is_empty();
    let mut processes: Vec<GpuProcess> =
        computing.iter().chain(&drawing).map(|process| process_of(&uuid, process)).collect();
    // Some programs do both, and are listed twice.
    processes.sort_by_key(|process| process.pid);
    processes.dedup_by_key(|process| process.pid);
    Some(NvmlGpu {
        name: part.name().or_else(|_| card.name()).unwrap_or_else(|_| "NVIDIA GPU".to_owned()),
        pci: pci_address(&pci.bus_id)?,
        device: pci.pci_device_id >> 16,
        driver: driver.to_owned(),
        cuda: cuda.to_owned(),
        memory,
        memory_free,
        percent: part.utilization_rates().ok().map(|rates| rates.gpu),
        processes,
        computing: is_computing,
        uuid,
    })
}

fn process_of(uuid: &str, process: &ProcessInfo) -> GpuProcess {
    let memory = match process.used_gpu_memory {
        UsedGpuMemory::Used(bytes) => bytes,
        UsedGpuMemory::Unavailable => 0,
    };
    GpuProcess { uuid: uuid.to_owned(), pid: process.pid, memory: ByteSize(memory) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn worker(answers: Vec<Option<Answer>>) -> Worker {
        let (questions, asked) = mpsc::sync_channel::<()>(1);
        let (answer, received) = mpsc::sync_channel(1);
        thread::spawn(move || {
            for next in answers {
                if asked.recv().is_err() {
                    return;
                }
                let _ = next.map(|next| answer.send(next));
            }
            // Stays, as a thread that hangs in a driver does, until the test has ended.
            while asked.recv().is_ok() {}
        });
        Worker { questions, answers: received, owed: false }
    }

    #[test]
    fn a_driver_that_hangs_is_waited_for_once() {
        let mut worker = worker(vec![Some(Ok(Vec::new())), None]);
        assert_eq!(worker.ask(Duration::from_secs(10)), Ok(Vec::new()));
        assert_eq!(worker.ask(Duration::from_millis(20)), Err(NvmlError::Silent));
        let start = std::time::Instant::now();
        assert_eq!(worker.ask(Duration::from_secs(60)), Err(NvmlError::Silent));
        assert!(start.elapsed() < Duration::from_secs(10));
    }

    #[test]
    fn without_a_driver_the_reason_is_told_at_every_call() {
        if Nvml::init().is_ok() {
            eprintln!("skipped: this machine has an NVIDIA driver");
            return;
        }
        let watch = NvmlWatch::default();
        for _ in 0..2 {
            let answer = watch.ask(Duration::from_secs(10));
            assert!(matches!(answer, Err(NvmlError::Unavailable(_))), "{answer:?}");
        }
    }
}
