#include "src/event/frames.h"

#include <array>
#include <utility>

namespace vmm::task_detail {
namespace {

// Whoever looks for what is used after its end must see each frame end.
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
constexpr bool keeps = false;
#else
constexpr bool keeps = true;
#endif
constexpr usize step = 64, longest = 2048, most = 64;  // bytes, bytes, frames of a size

struct Free {
  Free* next;
};
struct Kept {
  std::array<Free*, longest / step> first{};
  std::array<u8, longest / step> count{};
  bool ended = false;
  ~Kept() {
    ended = true;
    for (Free*& list : first)
      while (list) ::operator delete(std::exchange(list, list->next));
  }
};
constinit thread_local Kept kept;

usize rounded(usize bytes) { return (bytes + step - 1) & ~(step - 1); }

}  // namespace

void* take_frame(usize bytes) {
  if (!keeps || bytes > longest) return ::operator new(bytes);
  const usize n = rounded(bytes) / step - 1;
  Kept& k = kept;
  if (!k.first[n]) return ::operator new(rounded(bytes));
  k.count[n]--;
  return std::exchange(k.first[n], k.first[n]->next);
}

void give_frame(void* frame, usize bytes) noexcept {
  if (!keeps || bytes > longest) return ::operator delete(frame);
  const usize n = rounded(bytes) / step - 1;
  Kept& k = kept;
  if (k.ended || k.count[n] == most) return ::operator delete(frame);
  k.count[n]++;
  k.first[n] = ::new (frame) Free{k.first[n]};
}

}  // namespace vmm::task_detail
