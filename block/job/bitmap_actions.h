// Steps on dirty bitmaps, one by one or in a transaction.
#pragma once

#include <functional>

#include "block/job/job.h"

namespace vmm::block {

// Is it one of block-dirty-bitmap-add, -remove, -clear, -enable, -disable, -merge?
bool is_bitmap_action(std::string_view type);
// The node that a step is about, which rests while it is taken.
Result<NodeRef> node_of_bitmap_action(const Value& arguments);
// Takes the step; the answer takes it back.
Result<std::function<void()>> take_bitmap_action(std::string_view type, const Value& arguments);

}  // namespace vmm::block
