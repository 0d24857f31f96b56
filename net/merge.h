// Puts consecutive segments of one TCP connection together, for a peer that takes large segments: one packet instead of forty.
// The reverse of segment(): what was merged can be cut into the same frames. Sources: RFC 791, RFC 9293; the idea is Linux's GRO.
#pragma once

#include "net/net.h"

namespace vmm::net {

class SegmentMerger {
 public:
  // Whether the frame went in. If not, take() what is there and try again, or send it as it is.
  bool add(std::span<const u8> frame);
  bool empty() const { return frame_.empty(); }
  bool full() const { return closed_; }  // nothing more can follow
  // The packet and what is left to be done to it; empty afterwards.
  std::pair<std::vector<u8>, Offload> take();

 private:
  std::vector<u8> frame_;
  usize header_ = 0, segment_ = 0;
  u32 next_sequence_ = 0;
  unsigned count_ = 0;
  bool closed_ = false;
};

}  // namespace vmm::net
