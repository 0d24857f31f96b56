// Frames with offload words that make no sense: segmentation and sums stay inside them; rules and options of back ends are text.
#include <algorithm>

#include "net/merge.h"
#include "net/user.h"
#include "src/base/assert.h"
#include "src/base/bits.h"

extern "C" int LLVMFuzzerTestOneInput(const vmm::u8* data, size_t size) {
  using namespace vmm;
  const std::string_view text{reinterpret_cast<const char*>(data), size};
  (void)net::parse_forward_rule(text, size & 1);
  (void)net::parse_guest_forward_rule(text);
  (void)net::parse_network(text);
  (void)net::parse_netdev_options(text);
  if (size < 10) return 0;
  net::Offload o{.needs_checksum = (data[0] & 1) != 0,
                 .segment = static_cast<net::Offload::Segment>(data[1] % 5),
                 .segment_bytes = load_le<u16>(&data[2]),
                 .checksum_start = load_le<u16>(&data[4]),
                 .checksum_offset = load_le<u16>(&data[6])};
  std::vector<u8> frame(data + 10, data + size);
  net::finish_checksum(frame, o);
  for (const auto& s : net::segment(frame, o)) ASSERT(s.size() <= frame.size() && s.size() >= 14);
  net::SegmentMerger merger;
  for (usize at = 0, step = 60 + data[8]; at < frame.size(); at += step)
    if (!merger.add(std::span{frame}.subspan(at, std::min(step, frame.size() - at))) && !merger.empty()) merger.take();
  if (const auto whole = net::prepare_segmentation(frame, o.segment_bytes))
    for (const auto& s : net::segment(frame, *whole)) ASSERT(s.size() <= frame.size());
  return 0;
}
