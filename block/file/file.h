// A host file or block device as a node. The host calls are carried out by an engine (threads, io_uring, Linux AIO).
#pragma once

#include "block/core/node.h"
#include "src/base/fd.h"

namespace vmm::block {

// Does host calls for tasks of a loop. Failures carry the errno. Any number at once.
class FileEngine {
 public:
  virtual ~FileEngine() = default;
  // All of the bytes; a read that meets the end of the file fills the rest with zeros.
  virtual Task<> read(EventLoop& loop, int fd, u64 offset, IoVector into) = 0;
  virtual Task<> write(EventLoop& loop, int fd, u64 offset, IoVector from, bool fua) = 0;
  virtual Task<> sync(EventLoop& loop, int fd) = 0;  // fdatasync
};
FileEngine& thread_engine();
FileEngine& native_engine();
FileEngine& uring_engine();  // only where uring_works()
bool uring_works();
// For loops that begin when this process may make no more rings (src/cage); one that finds none does its calls by threads.
void keep_spare_rings(usize count);

}  // namespace vmm::block
