// Sets of descriptors that were handed to us (-add-fd, QMP add-fd), and opening of files by names that may mean one of them:
// /dev/fdset/N is a duplicate of a member of set N that was opened for the same kind of access. Any thread.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "src/base/fd.h"
#include "src/base/result.h"
#include "src/base/types.h"

namespace vmm::io {

struct FdSetMember {
  int fd = -1;
  std::string opaque;
};
struct FdSetInfo {
  i64 id = 0;
  std::vector<FdSetMember> members;
};

// Takes `fd`. Without a set: the lowest free number. The set's number.
Result<i64> add_to_fd_set(std::optional<i64> set, Fd fd, std::string opaque);
Result<> remove_from_fd_set(i64 set, std::optional<int> fd);
std::vector<FdSetInfo> fd_sets();

// Descriptors with names (QMP getfd), which other commands take by them. A name that is taken anew closes the old descriptor.
Result<> name_fd(std::string name, Fd fd);
// Gone from the list; a number means one of our own descriptors that the parent handed down (-netdev tap,fd=31).
Result<Fd> take_named_fd(const std::string& name);

// open(2) with close-on-exec; "Could not open 'PATH': reason". For /dev/fdset/N the flags choose the member.
Result<Fd> open_file(const std::string& path, int flags, unsigned mode = 0666);

}  // namespace vmm::io
