#include "src/value/near.h"

#include <algorithm>

#include "src/base/format.h"
#include "src/base/types.h"

namespace vmm {

namespace {

// Edit distance in which a swap of neighbours counts as one.
usize distance(std::string_view a, std::string_view b) {
  std::vector<std::vector<usize>> d(a.size() + 1, std::vector<usize>(b.size() + 1));
  for (usize i = 0; i <= a.size(); i++) d[i][0] = i;
  for (usize j = 0; j <= b.size(); j++) d[0][j] = j;
  for (usize i = 1; i <= a.size(); i++)
    for (usize j = 1; j <= b.size(); j++) {
      d[i][j] = std::min({d[i - 1][j] + 1, d[i][j - 1] + 1, d[i - 1][j - 1] + (a[i - 1] != b[j - 1])});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) d[i][j] = std::min(d[i][j], d[i - 2][j - 2] + 1);
    }
  return d[a.size()][b.size()];
}

}  // namespace

std::vector<std::string> nearest_names(std::string_view word, std::span<const std::string> names) {
  if (word.empty() || word.size() > 64) return {};
  std::vector<std::pair<usize, std::string_view>> found;
  for (const std::string& name : names) {
    if (name.size() > 64 || name == word) continue;
    usize d = distance(word, name);
    const usize allowed = std::max<usize>(1, std::min(word.size(), name.size()) / 3);
    // A piece of a longer name is near too, but after misspelt ones.
    if (d > allowed && word.size() >= 3 && name.contains(word)) d = allowed;
    if (d <= allowed) found.emplace_back(d, name);
  }
  std::ranges::sort(found);
  std::vector<std::string> out;
  for (const auto& [d, name] : found)
    if (out.size() < 3 && std::ranges::find(out, name) == out.end()) out.emplace_back(name);
  return out;
}

std::string near_hint(std::string_view word, std::span<const std::string> names) {
  std::string near, all;
  for (const std::string& n : nearest_names(word, names)) near += format("{}'{}'", near.empty() ? "Near names: " : ", ", n);
  if (!near.empty()) return near;
  for (const std::string& n : names) all += format("{}{}", all.empty() ? "Valid names: " : ", ", n);
  return all.size() > 400 ? std::string{} : all;
}

}  // namespace vmm
