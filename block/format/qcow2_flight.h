// Guards of requests: which guest range a task allocates, and which epoch a request began in.
#pragma once

#include "block/format/qcow2.h"

namespace vmm::block {

// Freed clusters go back to the pool only after every request that began before has ended (Qcow2::apply_frees).
struct Qcow2::InFlight {
  explicit InFlight(Qcow2& image) : image(image), epoch(image.epoch_ & 1) { image.in_flight_[epoch]++; }
  ~InFlight() {
    if (--image.in_flight_[epoch] == 0) image.epoch_ended_.wake_all();
  }
  InFlight(const InFlight&) = delete;
  Qcow2& image;
  u64 epoch;
};

// While this lives, others that change the mapping of these guest bytes wait.
struct Qcow2::Allocating {
  Allocating(Qcow2& image, u64 begin, u64 end) : image(image), begin(begin), end(end) {
    place = image.allocating_.insert(image.allocating_.end(), this);
  }
  ~Allocating() {
    image.allocating_.erase(place);
    image.allocated_.wake_all();
  }
  Allocating(const Allocating&) = delete;
  Qcow2& image;
  u64 begin, end;
  std::list<Allocating*>::iterator place;
};

}  // namespace vmm::block
