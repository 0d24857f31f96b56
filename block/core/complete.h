// Trees of options as -drive and "json:" names may leave them: without a driver where a file name or an image's first bytes tell which.
#pragma once

#include "block/core/node.h"

namespace vmm::block {

// `tree` describes an image. Its "file" without a driver gets that of its "filename" (a protocol or the host's file); the image itself the
// one that its first bytes show, with the warning for a raw one when it is opened; a "backing" object likewise. The rest stays as it is.
Task<Value> complete_tree(EventLoop& loop, Value tree);

}  // namespace vmm::block
