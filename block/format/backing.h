// Files that an image names: where they are, and how they are opened.
#pragma once

#include "block/core/node.h"

namespace vmm::block {

// `name` as the image `of` says it: relative names are relative to that image's directory.
std::string resolve_name(const std::string& of, const std::string& name);
// The options tree for such a file; the format is probed if the image does not say. Refused if the image `of` may not name it.
Task<Value> tree_for_named_file(EventLoop& loop, std::string of, std::string filename, std::string format);

// A name in an image is the image's word, not the user's (safety.md §1). From this call on a file that is data as it stands (raw, or of no
// format stated) is opened only below its image's folder or below one of `folders`; devices, servers, filters and nodes of ours are not
// opened by an image's word at all. Without the call, as in our tools, every word is taken. Before other threads are there.
void bound_image_words(std::vector<std::string> folders);
// Whether the image `of` may have `tree`, options that it names, opened.
Result<> check_image_word(const std::string& of, const Value& tree, bool format_stated);

}  // namespace vmm::block
