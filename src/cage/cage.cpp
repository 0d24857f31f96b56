#include "src/cage/cage.h"

#include <fcntl.h>
#include <malloc.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <thread>

#include "block/file/file.h"
#include "src/base/log.h"
#include "src/cage/broker.h"
#include "src/cage/landlock.h"
#include "src/event/worker_pool.h"

// The sanitizers' own work asks for more than any list has.
#if defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define VMM_WIDE_CAGE 1
#endif
#endif

namespace vmm::cage {

namespace {

#ifdef VMM_WIDE_CAGE
constexpr bool narrow = false;
#else
constexpr bool narrow = true;
#endif

struct Cage {
  Options options;
  BrokerClient* broker = nullptr;
  Fd rules;             // Landlock's
  bool filters = true;  // the kernel has them
};
Cage* the_cage = nullptr;

bool write_word(const char* path, const std::string& word) {
  const Fd fd{::open(path, O_WRONLY | O_CLOEXEC)};
  return fd && ::write(fd.get(), word.data(), word.size()) == static_cast<ssize_t>(word.size());
}
// A user namespace of our own, in which we are who we were, and one for System V's and POSIX's queues. One for processes would have to be
// begun by a fork, and adds nothing: signals to others and ptrace are denied by the filters.
Result<> begin_namespaces() {
  const uid_t uid = ::getuid();
  const gid_t gid = ::getgid();
  const auto failed = [] { return fail_errno("'-sandbox strict' needs namespaces of its own, which this host does not give"); };
  if (::unshare(CLONE_NEWUSER | CLONE_NEWIPC) != 0) return failed();
  if (!write_word("/proc/self/setgroups", "deny") || !write_word("/proc/self/uid_map", format("{} {} 1", uid, uid)) ||
      !write_word("/proc/self/gid_map", format("{} {} 1", gid, gid)))
    return failed();
  return {};
}

// What libc opens once, whenever and on whatever thread it first wants to know: now, that is.
void settle_libc() {
  ::tzset();
  // How many arenas malloc may have: it would count the CPUs in /sys. This is what it would take.
  ::mallopt(M_ARENA_MAX, static_cast<int>(8 * std::max(1L, ::sysconf(_SC_NPROCESSORS_ONLN))));
  // Whether an arena's memory may be given back (/proc/sys/vm/overcommit_memory): asked when a thread's arena first has much to give.
  std::thread{[] {
    void* volatile pieces[16];  // volatile: a compiler may leave out what is only given back
    for (void* volatile& p : pieces) p = std::malloc(60000);
    for (void* const p : pieces) std::free(p);
  }}.join();
}

void enter(Who who) {
  if (!narrow) return;
  Result<> done;
  if (the_cage->rules) done = put_on_rules(the_cage->rules);
  if (done && the_cage->filters) done = put_on(who, the_cage->options.policy, false);
  if (done) return;
  // The same has worked at the start of the process: there is no machine without it.
  std::fprintf(stderr, "vmm: a thread cannot enter the sandbox: %s\n", done.error().message.c_str());
  std::_Exit(1);
}

}  // namespace

Result<> begin(const Options& options) {
  static Cage cage;
  the_cage = &cage;
  cage.options = options;
  set_become(options.become);
  auto rules = make_rules(!options.policy.strict);
  if (rules)
    cage.rules = std::move(*rules);
  else if (options.policy.strict)
    return std::unexpected(std::move(rules).error());
  else
    report_warning(format("{}: threads may open files", rules.error().message));
  settle_libc();
  cage.broker = TRY(BrokerClient::start(options.programs));
  host::set_broker(cage.broker);
  if (options.policy.strict) TRY(begin_namespaces());
  // To people; tools read standard error as the machine's own complaints.
  if (::geteuid() == 0 && !options.policy.becomes && ::isatty(STDERR_FILENO))
    report_warning("running as root: what gets out of the machine and its sandbox has the host; '-run-with user=NAME' is safer");
  if (auto done = put_on(Who::start, options.policy, true); !done) {
    if (options.policy.strict) return done;
    report_warning(format("no sandbox on this host: {}", done.error().message));
    cage.filters = false;
  }
  host::on_thread_begin([](host::ThreadKind kind) { enter(kind == host::ThreadKind::vcpu ? Who::vcpu : Who::io); });
  worker_pool().keep_maker();
  return {};
}

Result<> follow(const std::string& folder) {
  if (the_cage->broker->follow(folder) < 0) return fail_errno(format("the broker cannot change to '{}'", folder));
  return {};
}
Result<> become() {
  if (the_cage->broker->become() < 0) return fail_errno("the broker cannot change its root or user");
  return {};
}

Result<> close() {
  if (the_cage->options.policy.strict) {
    // With no network: what was opened stays.
    if (::unshare(CLONE_NEWNET) != 0) return fail_errno("no network namespace of our own");
    host::refuse_names();
    the_cage->broker->end();
  }
  block::keep_spare_rings(4);
  // What libraries read on this thread, and what the user has said that may be read.
  std::vector<std::string> more = host::close_readable();
  more.insert(more.end(), the_cage->options.files.begin(), the_cage->options.files.end());
  if (the_cage->rules && !the_cage->options.policy.strict) the_cage->rules = TRY(make_rules(true, more));
  enter(Who::main);
  return {};
}

std::string explain(const Options& options) {
  const Policy& p = options.policy;
  std::string out;
  const auto list = [&](const Allowance& a) {
    std::vector<std::string> names;
    for (const u16 nr : a.calls) names.emplace_back(name_of_call(nr));
    std::ranges::sort(names);
    std::string line;
    for (const std::string& n : names) {
      if (line.size() + n.size() > 110) out += "   " + line + "\n", line.clear();
      line += " " + n;
    }
    if (!line.empty()) out += "   " + line + "\n";
  };
  out += format("Files, places of sockets{}: {}\n", options.programs ? ", programs" : "",
                p.strict ? "opened while the machine is built; after that, nobody opens any"
                         : "by the broker, a process of its own, with the user's rights");
  if (!options.programs) out += "Programs: none are started\n";
  out += "Programs with more rights (setuid): never (no_new_privs)\n";
  const auto rules = make_rules(false);
  if (!rules) {
    out += format("Landlock: none ({})\n", rules.error().message);
  } else if (p.strict) {
    out += "Landlock: threads open nothing\n";
  } else {
    out += "Landlock: threads open nothing but, to read, what is below";
    for (const char* const place : readable_places()) out += format(" {}", place);
    out += "\n";
  }
  if (p.strict) out += "Namespaces of its own: user, IPC, and, when the machine runs, network\n";
  out += format("System calls that are not listed {}\n",
                p.audit ? "are printed and done (audit)" : "end the process, with a word about the call");
  for (const Who who : kinds) {
    const Allowance a = allowance(who, p);
    if (who == Who::start) {
      out += "While the machine is built, and for all threads ever, denied:\n";
      list(a);
      continue;
    }
    out += format("{} thread{}, {} calls:\n",
                  who == Who::main ? "The main"
                  : who == Who::io ? "I/O"
                                   : "Virtual CPU",
                  who == Who::main ? "" : "s", a.calls.size() + a.in_part.size());
    list(a);
    for (const auto& [nr, which] : a.in_part) out += format("    {}: {}\n", name_of_call(nr), which);
  }
  return out;
}

}  // namespace vmm::cage
