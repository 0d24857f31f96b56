#include "src/cage/filter.h"

#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/if_tun.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstring>

#include "src/base/format.h"

namespace vmm::cage {

namespace {

// ---- the lists

// Never needed, and a way out of most cages.
constexpr u16 dangerous[] = {SYS_reboot,        SYS_swapon,     SYS_swapoff,     SYS_syslog,          SYS_mount,
                             SYS_umount2,       SYS_kexec_load, SYS_afs_syscall, SYS_getpmsg,         SYS_putpmsg,
                             SYS_security,      SYS_tuxcall,    SYS_vserver,     SYS_init_module,     SYS_finit_module,
                             SYS_delete_module, SYS_pivot_root, SYS_acct,        SYS_kexec_file_load, SYS_open_by_handle_at,
                             SYS_move_mount,    SYS_fsopen,     SYS_fsmount,     SYS_open_tree};
constexpr u16 obsolete[] = {SYS__sysctl, SYS_create_module, SYS_get_kernel_syms, SYS_query_module, SYS_sysfs, SYS_uselib, SYS_ustat};
// Other processes, the kernel's own doors, the host's clock and names: nothing of a machine's business.
constexpr u16 foreign[] = {
    SYS_ptrace,   SYS_process_vm_readv, SYS_process_vm_writev, SYS_kcmp,           SYS_pidfd_getfd,   SYS_bpf,         SYS_perf_event_open,
    SYS_keyctl,   SYS_add_key,          SYS_request_key,       SYS_iopl,           SYS_ioperm,        SYS_modify_ldt,  SYS_vhangup,
    SYS_quotactl, SYS_settimeofday,     SYS_clock_settime,     SYS_adjtimex,       SYS_clock_adjtime, SYS_sethostname, SYS_setdomainname,
    SYS_fsconfig, SYS_fspick,           SYS_mount_setattr,     SYS_lookup_dcookie, SYS_nfsservctl};
constexpr u16 privileges[] = {SYS_setuid,    SYS_setgid,    SYS_setpgid,  SYS_setsid,   SYS_setreuid,  SYS_setregid,
                              SYS_setresuid, SYS_setresgid, SYS_setfsuid, SYS_setfsgid, SYS_setgroups, SYS_capset};
// Programs are the broker's to start.
constexpr u16 processes[] = {SYS_fork, SYS_vfork, SYS_execve, SYS_execveat, SYS_setns, SYS_unshare};
constexpr u16 resources[] = {SYS_setpriority,   SYS_sched_setparam,    SYS_sched_setscheduler,
                             SYS_sched_setattr, SYS_sched_setaffinity, SYS_ioprio_set};

// Each kind's list has the next one's too.
constexpr u16 vcpu_calls[] = {SYS_read,
                              SYS_write,
                              SYS_writev,
                              SYS_close,
                              SYS_futex,
                              SYS_munmap,
                              SYS_madvise,
                              SYS_mremap,
                              SYS_brk,
                              SYS_rt_sigreturn,
                              SYS_rt_sigaction,
                              SYS_rt_sigprocmask,
                              SYS_sigaltstack,
                              SYS_gettid,
                              SYS_getpid,
                              SYS_sched_yield,
                              SYS_pread64,
                              SYS_fstat,
                              SYS_clock_nanosleep,
                              SYS_clock_gettime,
                              SYS_exit,
                              SYS_exit_group,
                              SYS_restart_syscall,
                              SYS_rseq,
                              SYS_set_robust_list,
                              SYS_sendto,
                              SYS_sendmsg,
                              SYS_timerfd_settime,
                              SYS_epoll_ctl,
                              SYS_poll,
                              SYS_getrandom};
constexpr u16 io_calls[] = {SYS_pwrite64,     SYS_preadv,          SYS_pwritev2,     SYS_fsync,          SYS_fdatasync,
                            SYS_fallocate,    SYS_ftruncate,       SYS_lseek,        SYS_newfstatat,     SYS_epoll_wait,
                            SYS_epoll_pwait2, SYS_io_submit,       SYS_io_getevents, SYS_io_uring_enter, SYS_recvfrom,
                            SYS_recvmsg,      SYS_rt_sigtimedwait, SYS_connect,      SYS_getsockopt,     SYS_pipe2};
constexpr u16 main_calls[] = {SYS_openat, SYS_sysinfo, SYS_readv, SYS_eventfd2, SYS_statx, SYS_fstatfs, SYS_shutdown, SYS_accept,
                              SYS_getuid, SYS_readlink, SYS_bind, SYS_setsockopt, SYS_getsockname, SYS_getpeername, SYS_ppoll,
                              SYS_timerfd_create, SYS_epoll_create1, SYS_accept4, SYS_listen, SYS_fadvise64,
                              // Memory that is plugged in; locks of images and who holds them; names of files that images say.
                              SYS_memfd_create, SYS_mbind, SYS_mlock, SYS_mlock2, SYS_getdents64, SYS_getcwd, SYS_access, SYS_fchmod,
                              SYS_sched_getaffinity, SYS_uname, SYS_geteuid,
                              SYS_wait4,  // for a copy of the process (below)
                              // A thread that begins puts its own on.
                              SYS_seccomp, SYS_landlock_restrict_self};

struct Part {
  u16 nr;
  Who least;  // the smallest kind that has it
  std::string_view which;
};
constexpr Part parts[] = {
    {SYS_ioctl, Who::vcpu, "KVM's, a tap's offloads; others than a virtual CPU: terminals, disks, taps"},
    {SYS_fcntl, Who::vcpu, "a virtual CPU: copies of descriptors"},
    {SYS_mmap, Who::vcpu, "nothing writable and executable at once"},
    {SYS_mprotect, Who::vcpu, "nothing writable and executable at once"},
    {SYS_tgkill, Who::vcpu, "to ourselves"},
    {SYS_prctl, Who::vcpu, "names of threads and of memory; whether a thread reads the counter"},
    {SYS_io_uring_register, Who::io, "waking a ring that was made before"},
    {SYS_clone, Who::io, "threads; main: a copy of itself"},
    {SYS_socket, Who::io, "unix, IPv4, IPv6, routing's netlink"},
};

// ---- BPF

// The stub below makes the call that was denied; a filter of an audit lets it pass.
asm(R"(
  .text
  .p2align 4
  .type vmm_cage_call, @function
vmm_cage_call:
  mov %rdi, %rax
  mov (%rsi), %rdi
  mov 16(%rsi), %rdx
  mov 24(%rsi), %r10
  mov 32(%rsi), %r8
  mov 40(%rsi), %r9
  mov 8(%rsi), %rsi
  syscall
  .globl vmm_cage_called
vmm_cage_called:
  ret
  .size vmm_cage_call, . - vmm_cage_call
)");
extern "C" long vmm_cage_call(long nr, const u64* arguments);
extern "C" const char vmm_cage_called[];

class Program {
 public:
  explicit Program(bool audit) {
    load(offsetof(seccomp_data, arch));
    add(BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_X86_64, 1, 0);
    add(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS);
    if (audit) {
      const u64 at = reinterpret_cast<u64>(vmm_cage_called);
      load(offsetof(seccomp_data, instruction_pointer));
      add(BPF_JMP | BPF_JEQ | BPF_K, static_cast<u32>(at), 0, 3);
      load(offsetof(seccomp_data, instruction_pointer) + 4);
      add(BPF_JMP | BPF_JEQ | BPF_K, static_cast<u32>(at >> 32), 0, 1);
      add(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    }
    load(offsetof(seccomp_data, nr));
    add(BPF_JMP | BPF_JGE | BPF_K, 0x4000'0000, 0, 1);  // the x32 ABI's numbers
    add(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS);
  }
  void answer(std::span<const u16> calls, u32 with) {
    for (const u16 nr : calls) answer(nr, with);
  }
  void answer(u32 value, u32 with) {
    add(BPF_JMP | BPF_JEQ | BPF_K, value, 0, 1);
    add(BPF_RET | BPF_K, with);
  }
  // The call passes if argument `n`, its low half, is one of the values under the mask; else `otherwise`.
  void pass_if(u16 nr, unsigned n, u32 mask, std::span<const u32> values, u32 otherwise) {
    add(BPF_JMP | BPF_JEQ | BPF_K, nr, 0, static_cast<u8>(2 * values.size() + 3));
    load(offsetof(seccomp_data, args) + 8 * n);
    add(BPF_ALU | BPF_AND | BPF_K, mask);
    for (const u32 v : values) answer(v, SECCOMP_RET_ALLOW);
    add(BPF_RET | BPF_K, otherwise);
  }
  // With exactly this as argument `n`, its low half, the call gets that answer; otherwise it goes on down the list.
  void answer_exact(u16 nr, unsigned n, u32 value, u32 with) {
    add(BPF_JMP | BPF_JEQ | BPF_K, nr, 0, 4);
    load(offsetof(seccomp_data, args) + 8 * n);
    answer(value, with);
    load(offsetof(seccomp_data, nr));
  }
  Result<> install(u32 otherwise, bool all) {
    add(BPF_RET | BPF_K, otherwise);
    const sock_fprog program{.len = static_cast<unsigned short>(code_.size()), .filter = code_.data()};
    if (::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 ||
        ::syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, all ? SECCOMP_FILTER_FLAG_TSYNC : 0, &program) != 0)
      return fail_errno("failed to install seccomp syscall filter in the kernel");
    return {};
  }

 private:
  void load(usize offset) { add(BPF_LD | BPF_W | BPF_ABS, static_cast<u32>(offset)); }
  void add(unsigned code, u32 k, u8 yes = 0, u8 no = 0) { code_.push_back({static_cast<u16>(code), yes, no, k}); }
  std::vector<sock_filter> code_;
};

// ---- a call that was denied

std::atomic<bool> auditing{false};

struct CallName {
  u16 nr;
  const char* name;
};
constexpr CallName call_names[] = {
#include <call_names.inc>
};

// On the thread that met it: says so, and ends the process. Only what a signal handler may do.
void met_denied_call(int, siginfo_t* info, void* context) {
  char text[512];
  usize n = 0;
  const auto say = [&](const char* word) {
    while (*word && n < sizeof text) text[n++] = *word++;
  };
  const auto number = [&](u64 v) {
    char digits[24];
    int count = 0;
    do digits[count++] = static_cast<char>('0' + v % 10);
    while ((v /= 10) > 0);
    while (count > 0 && n < sizeof text) text[n++] = digits[--count];
  };
  char name[16] = {};
  const u64 naming[] = {PR_GET_NAME, reinterpret_cast<u64>(name), 0, 0, 0, 0};
  auto& registers = static_cast<ucontext_t*>(context)->uc_mcontext.gregs;
  const u64 arguments[] = {static_cast<u64>(registers[REG_RDI]), static_cast<u64>(registers[REG_RSI]), static_cast<u64>(registers[REG_RDX]),
                           static_cast<u64>(registers[REG_R10]), static_cast<u64>(registers[REG_R8]),  static_cast<u64>(registers[REG_R9])};
  vmm_cage_call(SYS_prctl, naming);
  say("vmm: thread '"), say(name), say("' ("), say(name_of(static_cast<Who>(info->si_errno & 3)).data()), say(") has met system call "),
      say(name_of_call(info->si_syscall)), say(" (");
  number(static_cast<u64>(info->si_syscall)), say("; "), number(arguments[0]), say(", "), number(arguments[1]), say(", "),
      number(arguments[2]);
  const bool audit = auditing;
  say(audit ? "), which the sandbox would deny\n" : "), which the sandbox denies: a flaw, or an attack; '-sandbox off' would allow it\n");
  const u64 writing[] = {2, reinterpret_cast<u64>(text), n, 0, 0, 0};
  vmm_cage_call(SYS_write, writing);
  if (audit) {
    registers[REG_RAX] = vmm_cage_call(info->si_syscall, arguments);
    return;
  }
  ::syscall(SYS_exit_group, 159);  // as a shell shows an end by SIGSYS
}

Result<> handle_denied_calls() {
  struct sigaction action{};
  action.sa_sigaction = met_denied_call;
  action.sa_flags = SA_SIGINFO | SA_NODEFER;
  if (::sigaction(SIGSYS, &action, nullptr) != 0) return fail_errno("cannot handle SIGSYS");
  return {};
}

// The filter's kind comes with the signal.
constexpr u32 trap(Who who) { return SECCOMP_RET_TRAP | static_cast<u32>(who); }
constexpr u32 errno_answer(int number) { return SECCOMP_RET_ERRNO | static_cast<u32>(number); }

Result<> put_on_start(const Policy& policy, bool all) {
  Program program{policy.audit};
  program.answer(dangerous, trap(Who::start));
  program.answer(foreign, trap(Who::start));
  if (!policy.obsolete) program.answer(obsolete, trap(Who::start));
  if (!policy.elevate && !policy.becomes) program.answer(privileges, errno_answer(EPERM));
  if (!policy.resources) program.answer(resources, errno_answer(EPERM));
  for (const u16 nr : processes)  // under strict the main thread leaves the network at the end of the start
    if (!(policy.strict && nr == SYS_unshare)) program.answer(nr, errno_answer(EPERM));
  // Threads may be made, and a copy of the process that keeps RAM as it is (migration/frozen.h); no program starts. clone3's arguments lie
  // in memory, which a filter cannot see: libc then takes clone.
  program.answer(SYS_clone3, errno_answer(ENOSYS));
  constexpr u32 thread[] = {CLONE_THREAD};
  program.answer_exact(SYS_clone, 0, 0, SECCOMP_RET_ALLOW);
  program.pass_if(SYS_clone, 0, CLONE_THREAD, thread, errno_answer(EPERM));
  return program.install(SECCOMP_RET_ALLOW, all);
}

std::vector<u16> plain_calls(Who who, const Policy& policy) {
  std::vector<u16> calls{std::begin(vcpu_calls), std::end(vcpu_calls)};
  if (who != Who::vcpu) calls.insert(calls.end(), std::begin(io_calls), std::end(io_calls));
  if (who == Who::main) calls.insert(calls.end(), std::begin(main_calls), std::end(main_calls));
  if (policy.becomes && who != Who::main) calls.insert(calls.end(), {SYS_setuid, SYS_setgid, SYS_setgroups});
  if (policy.strict) std::erase_if(calls, [](u16 nr) { return nr == SYS_openat || nr == SYS_connect || nr == SYS_bind; });
  return calls;
}

}  // namespace

std::string_view name_of(Who who) {
  switch (who) {
    case Who::start: return "at the start";
    case Who::main: return "main";
    case Who::io: return "I/O";
    case Who::vcpu: return "virtual CPU";
  }
  return "";
}

const char* name_of_call(long nr) {
  for (const CallName& c : call_names)
    if (c.nr == nr) return c.name;
  return "of an unknown name";
}

Allowance allowance(Who who, const Policy& policy) {
  Allowance out;
  if (who == Who::start) {
    for (const auto list : {std::span<const u16>{dangerous}, std::span<const u16>{foreign}, std::span<const u16>{processes}})
      out.calls.insert(out.calls.end(), list.begin(), list.end());
    if (!policy.obsolete) out.calls.insert(out.calls.end(), std::begin(obsolete), std::end(obsolete));
    if (!policy.elevate) out.calls.insert(out.calls.end(), std::begin(privileges), std::end(privileges));
    if (!policy.resources) out.calls.insert(out.calls.end(), std::begin(resources), std::end(resources));
    out.in_part = {{SYS_clone, "threads"}};
    return out;
  }
  out.calls = plain_calls(who, policy);
  for (const Part& p : parts)
    if (p.least >= who && !(policy.strict && p.nr == SYS_socket)) out.in_part.emplace_back(p.nr, p.which);
  return out;
}

Result<> put_on(Who who, const Policy& policy, bool all) {
  auditing = policy.audit;
  TRY(handle_denied_calls());
  // It must reach the thread: one that blocks the signal would end without a word.
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGSYS);
  ::pthread_sigmask(SIG_UNBLOCK, &set, nullptr);
  if (who == Who::start) return put_on_start(policy, all);
  Program program{policy.audit};
  // Those with arguments first: the kernel remembers by number which of the others always pass.
  const auto type = [](char letter) { return static_cast<u32>(static_cast<u8>(letter)) << 8; };
  std::vector<u32> requests = {0xAE00};  // KVM
  if (who != Who::vcpu)
    requests.insert(requests.end(),
                    {type('T'), type('S'), 0x1200 /* disks */, 0x2200 /* SCSI */, 0x8900 /* sockets */, 0xAA00 /* userfaultfd */,
                     0x0200 /* floppies */, 0x9400 /* file systems */, type('f'), type('X'), type('N')});
  // What a terminal is made to believe was typed would be its shell's.
  program.answer_exact(SYS_ioctl, 1, TIOCSTI, trap(who));
  program.answer_exact(SYS_ioctl, 1, 0x541C /* TIOCLINUX */, trap(who));
  program.answer_exact(SYS_ioctl, 1, TUNSETOFFLOAD, SECCOMP_RET_ALLOW);  // a guest's driver says what its card may do
  program.pass_if(SYS_ioctl, 1, 0xFF00, requests, trap(who));
  constexpr u32 protections[] = {0, PROT_WRITE, PROT_EXEC};
  program.pass_if(SYS_mmap, 2, PROT_WRITE | PROT_EXEC, protections, trap(who));
  program.pass_if(SYS_mprotect, 2, PROT_WRITE | PROT_EXEC, protections, trap(who));
  constexpr u32 copying[] = {F_DUPFD_CLOEXEC};
  if (who == Who::vcpu)
    program.pass_if(SYS_fcntl, 1, ~0u, copying, trap(who));
  else
    program.answer(SYS_fcntl, SECCOMP_RET_ALLOW);
  const u32 ourselves[] = {static_cast<u32>(::getpid())};
  program.pass_if(SYS_tgkill, 0, ~0u, ourselves, trap(who));
  // The last one only takes away; a thread that begins says it again.
  constexpr u32 naming[] = {PR_SET_NAME, PR_GET_NAME, 0x53564d41 /* PR_SET_VMA */, PR_SET_TSC, PR_SET_NO_NEW_PRIVS};
  program.pass_if(SYS_prctl, 0, ~0u, std::span{naming}.first(who == Who::main ? 5 : 4), trap(who));
  program.answer(SYS_clone3, errno_answer(ENOSYS));
  if (who != Who::vcpu) {
    constexpr u32 thread[] = {CLONE_THREAD};
    if (who == Who::main) program.answer_exact(SYS_clone, 0, 0, SECCOMP_RET_ALLOW);
    program.pass_if(SYS_clone, 0, CLONE_THREAD, thread, trap(who));
    constexpr u32 families[] = {AF_UNIX, AF_INET, AF_INET6, AF_NETLINK};
    if (!policy.strict) program.pass_if(SYS_socket, 0, ~0u, families, trap(who));
  }
  // Rings come from before (block/file/uring_engine.cpp); a loop that finds none left reads without one.
  program.answer(SYS_io_uring_setup, errno_answer(EPERM));
  constexpr u32 enabling[] = {12 /* IORING_REGISTER_ENABLE_RINGS */};
  if (who != Who::vcpu) program.pass_if(SYS_io_uring_register, 1, ~0u, enabling, trap(who));
  if (policy.strict) {  // an answer, not an end: the user asked for what strict does not give
    for (const u16 nr : {SYS_openat, SYS_socket, SYS_connect, SYS_bind}) program.answer(nr, errno_answer(EPERM));
  }
  program.answer(plain_calls(who, policy), SECCOMP_RET_ALLOW);
  return program.install(trap(who), all);
}

}  // namespace vmm::cage
