// See cache.h. Sources: memfd_create(2), fcntl(2) F_ADD_SEALS.
#include "accel/tcg/run/cache.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "src/base/bits.h"

namespace vmm::tcg {

namespace {
constexpr u64 unmap_every = 512 * KiB, page = 4096;
}

Result<std::unique_ptr<CodeCache>> CodeCache::make(u64 bytes) {
  std::unique_ptr<CodeCache> c(new CodeCache);
  c->size_ = c->end_ = align_up(bytes, 2 * MiB);
  c->fd_ = Fd(memfd_create("vmm-code", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!c->fd_ || ftruncate(c->fd_.get(), static_cast<off_t>(c->size_)) < 0) return fail_errno("cannot make the code cache");
  void* const write = mmap(nullptr, c->size_, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, c->fd_.get(), 0);
  if (write == MAP_FAILED) return fail_errno("cannot map the code cache");
  c->write_ = reinterpret_cast<u64>(write);
  void* const run = mmap(nullptr, c->size_, PROT_READ | PROT_EXEC, MAP_SHARED | MAP_NORESERVE, c->fd_.get(), 0);
  if (run == MAP_FAILED) return fail_errno("cannot map the code cache executable");
  c->run_ = reinterpret_cast<u64>(run);
  for (void* m : {write, run}) madvise(m, c->size_, MADV_DONTFORK), madvise(m, c->size_, MADV_DONTDUMP);
  fcntl(c->fd_.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL);
  return c;
}

CodeCache::~CodeCache() {
  if (write_) munmap(reinterpret_cast<void*>(write_), size_);
  if (run_) munmap(reinterpret_cast<void*>(run_), size_);
}

std::span<u8> CodeCache::space(u64 least) {
  if (end_ - used_ < least) return {};
  return {reinterpret_cast<u8*>(write_ + used_), end_ - used_};
}

void CodeCache::take(u64 bytes) {
  used_ = std::min(end_, align_up(used_ + bytes, alignment));
  if (used_ / unmap_every == unmapped_ / unmap_every) return;
  unmapped_ = used_;
  madvise(reinterpret_cast<void*>(write_), align_down(used_, page), MADV_DONTNEED);
}

void CodeCache::keep() {
  kept_ = used_;
  end_ = middle_ = align_up(kept_ + (size_ - kept_) / 2, alignment);
}

void CodeCache::change_half() {
  half_ ^= 1;
  used_ = half_ ? middle_ : kept_;
  end_ = half_ ? size_ : middle_;
}

}  // namespace vmm::tcg
