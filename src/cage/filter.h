// What each kind of thread may ask of the kernel. Source: seccomp(2), "Seccomp BPF" in the kernel's documentation; shared/safety.md §1.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "src/base/result.h"
#include "src/base/types.h"

namespace vmm::cage {

// Filters only add up: what one denies no later one allows. So `start` (all threads, all their lives) is wide, `main` is put on when the
// machine runs, and the others lie within it, since what the main thread starts later has its filter as well.
enum class Who : u8 { start, main, io, vcpu };
constexpr Who kinds[] = {Who::start, Who::main, Who::io, Who::vcpu};
std::string_view name_of(Who who);

struct Policy {
  bool strict = false;    // no opening, no sockets
  bool obsolete = false;  // allowed
  bool elevate = true;    // change of user, group, session, until the machine runs
  bool resources = true;  // change of priorities and affinities
  bool audit = false;     // what is denied is printed and done
  bool becomes = false;   // another user at the end of the start (-run-with user=), which libc does on every thread
};

// The system calls that a thread may make at any time, and those of which only some arguments pass, with a word on which; for `start` the
// ones that it may not make.
struct Allowance {
  std::vector<u16> calls;
  std::vector<std::pair<u16, std::string_view>> in_part;
};
Allowance allowance(Who who, const Policy& policy);
// Of a call's number, as the kernel's headers have it; its number in digits where they do not.
const char* name_of_call(long nr);

// Puts it on the calling thread, for good; `all`: on all threads of the process. What it denies is named on standard error and ends the
// process.
Result<> put_on(Who who, const Policy& policy, bool all);

}  // namespace vmm::cage
