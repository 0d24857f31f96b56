// See cache.h. Sources: memfd_create(2), fcntl(2) F_ADD_SEALS, madvise(2).
#include "accel/tcg/run/cache.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>

#include "src/base/bits.h"

namespace vmm::tcg {

namespace {
constexpr u64 page = 4096, unmap_every = 512 * KiB, largest_slab = 2 * MiB, smallest_slab = 128 * KiB;
}

Result<std::unique_ptr<CodeCache>> CodeCache::make(u64 bytes) {
  std::unique_ptr<CodeCache> c(new CodeCache);
  c->size_ = c->end_ = align_up(std::max(bytes, 4 * smallest_slab), 64 * KiB);
  c->fd_ = Fd(memfd_create("vmm-code", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!c->fd_ || ftruncate(c->fd_.get(), static_cast<off_t>(c->size_)) < 0) return fail_errno("cannot make the code cache");
  void* const write = mmap(nullptr, c->size_, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, c->fd_.get(), 0);
  if (write == MAP_FAILED) return fail_errno("cannot map the code cache");
  c->write_ = reinterpret_cast<u64>(write);
  void* const run = mmap(nullptr, c->size_, PROT_READ | PROT_EXEC, MAP_SHARED | MAP_NORESERVE, c->fd_.get(), 0);
  if (run == MAP_FAILED) return fail_errno("cannot map the code cache executable");
  c->run_ = reinterpret_cast<u64>(run);
  void* const notes = mmap(nullptr, c->size_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (notes == MAP_FAILED) return fail_errno("cannot map the notes of the code cache");
  c->notes_ = reinterpret_cast<u64>(notes);
  for (void* m : {write, run, notes}) madvise(m, c->size_, MADV_DONTFORK), madvise(m, c->size_, MADV_DONTDUMP);
  madvise(notes, c->size_, MADV_NOHUGEPAGE);
  fcntl(c->fd_.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL);
  return c;
}

CodeCache::~CodeCache() {
  for (const u64 at : {write_, run_, notes_})
    if (at) munmap(reinterpret_cast<void*>(at), size_);
}

std::span<u8> CodeCache::space(u64 least) {
  if (end_ - used_ < least) return {};
  return {reinterpret_cast<u8*>(write_ + used_), end_ - used_};
}

void CodeCache::take(u64 bytes) {
  used_ = std::min(end_, align_up(used_ + bytes, alignment));
  if (used_ - unmapped_ >= unmap_every) unmap_finished();
}

// The writable view comes back, page by page, when something is patched: each view's pages count as resident memory and have page
// tables of their own.
void CodeCache::unmap_finished() {
  unmapped_ = used_;
  madvise(reinterpret_cast<void*>(write_), size_, MADV_DONTNEED);
}

void CodeCache::keep() {
  kept_ = align_up(used_, page);
  const u64 left = size_ - kept_;
  slab_bytes_ = align_down(std::clamp(left / 8, smallest_slab, largest_slab), page);
  states_.resize(left / slab_bytes_);
  for (unsigned i = 0; i < states_.size(); i++) free_.push_back(i);
  (void)next();
}

bool CodeCache::next() {
  if (free_.empty()) return false;
  current_ = free_.front();
  free_.pop_front();
  filled_.push_back(current_);
  used_ = unmapped_ = kept_ + current_ * slab_bytes_;
  end_ = used_ + slab_bytes_;
  unmap_finished();
  return true;
}

bool CodeCache::oldest(unsigned& slab) const {
  if (filled_.size() < 2) return false;
  slab = filled_.front();
  return true;
}

void CodeCache::retire_oldest() {
  retired_bytes_ += slab_bytes_ + states_[filled_.front()].notes_used;
  filled_.pop_front();
}

void CodeCache::empty(unsigned slab) {
  retired_bytes_ -= slab_bytes_ + states_[slab].notes_used;
  if (states_[slab].notes_used) madvise(reinterpret_cast<void*>(notes_ + slab * slab_bytes_), slab_bytes_, MADV_DONTNEED);
  states_[slab].notes_used = 0;
  free_.push_back(slab);
}

bool CodeCache::room_for_notes(u64 bytes) const { return slab_bytes_ - states_[current_].notes_used >= bytes + 64; }

void* CodeCache::note(u64 bytes, u64 align) {
  Slab& s = states_[current_];
  const u64 at = align_up(s.notes_used, align);
  if (at + bytes > slab_bytes_) return nullptr;
  s.notes_used = at + bytes;
  return reinterpret_cast<void*>(notes_ + current_ * slab_bytes_ + at);
}

u64 CodeCache::bytes_in_use() const {
  u64 bytes = retired_bytes_;
  for (const unsigned slab : filled_) bytes += slab_bytes_ + states_[slab].notes_used;
  return bytes;
}

}  // namespace vmm::tcg
