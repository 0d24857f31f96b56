// Byte locks that tell other users of an image, QEMU's tools among them, what we do with it (contract.md §6).
#pragma once

#include <string>

#include "block/core/node.h"

namespace vmm::block {

// The locks of one open file: a shared lock on byte 100 + n for each permission n that we need, on 200 + n for each that we do not
// share. They go with the descriptor.
class FileLock {
 public:
  // Locks what is new, checks that nobody else objects, lets go of what is no longer wanted. On failure all is as before. The error
  // names who holds the file. `optional`: a file system without such locks is no error.
  Result<> set(int fd, const std::string& filename, u8 needs, u8 unshared, bool optional);

 private:
  u8 needs_ = 0, unshared_ = 0;
};

// "process 123 (vmm)", or why that cannot be told.
std::string lock_holder(int fd, u64 byte);

}  // namespace vmm::block
