// The cage, as a whole (shared/safety.md §1): a broker for names, a wide filter for the start, then a narrow one and Landlock for each kind
// of thread. In this order, on the main thread: begin(), with no other thread yet; build the machine; close(), when all stands that the
// command line names.
#pragma once

#include <functional>

#include "src/cage/filter.h"

namespace vmm::cage {

struct Options {
  Policy policy;
  bool programs = true;            // the broker starts some
  std::vector<std::string> files;  // readable for good (-sandbox files=)
  std::function<bool()> become;    // what become() does in the broker
};

// What the kernel lacks is an error under strict, and else a warning: one line each.
Result<> begin(const Options& options);
// The broker and its names follow the process into `folder`.
Result<> follow(const std::string& folder);
Result<> become();
// The main thread's narrow filter. Under strict the broker ends.
Result<> close();

// What is in force with these options, as a text for people.
std::string explain(const Options& options);

}  // namespace vmm::cage
