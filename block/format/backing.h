// Files that an image names: where they are, and how they are opened.
#pragma once

#include "block/core/node.h"

namespace vmm::block {

// `name` as the image `of` says it: relative names are relative to that image's directory.
std::string resolve_name(const std::string& of, const std::string& name);
// The options tree for such a file; the format is probed if the image does not say.
Task<Value> tree_for_named_file(EventLoop& loop, std::string filename, std::string format);

}  // namespace vmm::block
