// A file that stays open for as long as the machine may start again from it, instead of a copy in memory.
#pragma once

#include <sys/stat.h>

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "src/base/fd.h"
#include "src/base/result.h"
#include "src/base/types.h"

namespace vmm::hw {

class KeptFile {
 public:
  // Null: not a regular file, which can be read once only.
  static std::shared_ptr<KeptFile> open(const std::string& path);
  u64 size() const { return static_cast<u64>(first_.st_size); }
  // What is there now; what is no longer there reads as zeros. A file that has changed since open() is said, once. Any thread that holds
  // the machine.
  void read(u64 offset, std::span<u8> into);

 private:
  std::string path_;
  Fd fd_;
  struct stat first_{};
  bool told_ = false;
};

// A part of one.
struct FileSlice {
  std::shared_ptr<KeptFile> file;
  u64 offset = 0, size = 0;
};

}  // namespace vmm::hw
