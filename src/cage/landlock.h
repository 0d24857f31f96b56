// What a thread that takes part in the cage may open itself: the system's libraries and configuration, to read, and nothing else. Source:
// landlock(7), "Landlock: unprivileged access control" in the kernel's documentation.
#pragma once

#include <span>
#include <string>

#include "src/base/fd.h"
#include "src/base/result.h"

namespace vmm::cage {

// Folders and files that stay readable: name look-ups, /etc/resolv.conf, libraries that libraries load.
std::span<const char* const> readable_places();
// A set of rules that allows reading those and `more`, if `reading`, or nothing at all. An error where the kernel has no Landlock.
Result<Fd> make_rules(bool reading, std::span<const std::string> more = {});
// Puts them on the calling thread and on those that it starts, for good.
Result<> put_on_rules(const Fd& rules);

}  // namespace vmm::cage
