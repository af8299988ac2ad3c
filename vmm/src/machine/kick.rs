//! Kicks: a signal that takes a thread out of the guest, or out of a system call.

use std::cell::Cell;
use std::io;
use std::ptr;
use std::thread::JoinHandle;

use kvm_bindings::kvm_run;
use vmm_sys_util::signal::{Killable, SIGRTMIN, register_signal_handler};

thread_local! {
    /// Where this thread's `kvm_run.immediate_exit` is, for the signal handler.
    static IMMEDIATE_EXIT: Cell<*mut u8> = const { Cell::new(ptr::null_mut()) };
}

/// Makes the running or next KVM_RUN return, so that a kick between the look at the stop flag and
/// KVM_RUN is not lost (KVM API, section 5, `immediate_exit`).
extern "C" fn on_kick(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
    let immediate_exit = IMMEDIATE_EXIT.get();
    if !immediate_exit.is_null() {
        // SAFETY: the pointer is into this thread's own kvm_run, which lives until the thread
        // has cleared the cell.
        unsafe { immediate_exit.write_volatile(1) };
    }
}

/// Installs the handler for kicks; once, before the first thread that is kicked.
///
/// # Errors
/// The host refuses the handler.
pub fn prepare() -> io::Result<()> {
    register_signal_handler(SIGRTMIN(), on_kick)
        .map_err(|error| io::Error::from_raw_os_error(error.errno()))
}

/// Kicks `thread`, after [`prepare`].
pub fn kick<T>(thread: &JoinHandle<T>) {
    // An error is that of a thread that has ended just now.
    let _ = thread.kill(SIGRTMIN());
}

/// Kicks of this thread are for a vCPU, until this is dropped.
pub struct KickTarget(());

impl KickTarget {
    /// The vCPU of `kvm_run`.
    ///
    /// # Safety
    /// `kvm_run` is mapped until this is dropped.
    pub unsafe fn new(kvm_run: *mut kvm_run) -> Self {
        // SAFETY: the field's place is computed and nothing read; the caller keeps it mapped.
        IMMEDIATE_EXIT.set(unsafe { &raw mut (*kvm_run).immediate_exit });
        Self(())
    }
}

impl Drop for KickTarget {
    fn drop(&mut self) {
        IMMEDIATE_EXIT.set(ptr::null_mut());
    }
}
