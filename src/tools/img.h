// vmm img (qemu-img): making, describing, checking and copying images. Source: contract.md §6, and what Debian's qemu-img 7.2 prints.
#pragma once

#include <map>

#include "block/core/node.h"
#include "block/format/qcow2.h"
#include "src/base/log.h"

namespace vmm::tools::img {

// --- Command lines --------------------------------------------------------------------------------------------------------------------

struct OptionSpec {
  char letter = 0;        // 0: only the long form
  std::string_view name;  // empty: only the short form
  bool takes_value = false;
};
class Arguments {
 public:
  // Options may stand before, between and after the other words; "--" ends them.
  static Result<Arguments> parse(std::span<const char* const> words, std::span<const OptionSpec> specs);
  bool has(std::string_view option) const { return values_.contains(std::string{option}); }
  // The last one's value; options are asked for by their long name, or the letter if they have none.
  std::string get(std::string_view option, std::string otherwise = {}) const;
  std::vector<std::string> all(std::string_view option) const;
  std::vector<std::string> words;

 private:
  std::map<std::string, std::vector<std::string>> values_;
};

struct Command {
  std::string_view name, usage;
  std::span<const OptionSpec> options;
  Result<int> (*run)(const Arguments& args);
};
extern const Command create_command, info_command, check_command, map_command, measure_command, resize_command, snapshot_command,
    amend_command, bitmap_command, convert_command, compare_command, dd_command, bench_command, commit_command, rebase_command;

// A size as users type it; the tool's own words where it is none.
Result<u64> parse_size(const std::string& text);
// "-o a=1,b=2 -o c=3" as one tree of strings; `help` is set if it asks for that.
Result<Value> parse_options(const std::vector<std::string>& lists, bool* help = nullptr);
std::string size_text(u64 bytes);  // "196 KiB"

// --- Images ---------------------------------------------------------------------------------------------------------------------------

// The tool's loop: one a process.
EventLoop& loop();

struct OpenOptions {
  std::string format;  // empty: probed
  std::string cache = "writeback";
  std::string aio;
  bool writes = false, resizes = false;
  bool image_options = false;  // the name is a key list of node options
  bool force_share = false;
  bool no_backing = false, inspect = false;
  bool discard = true;
  std::string snapshot;  // read this one
};
// An open image and the right to use it. Closing reports what only then fails.
class Image {
 public:
  static Result<Image> open(const std::string& name, const OpenOptions& options);
  Image() = default;
  Image(Image&&) = default;
  Image& operator=(Image&&) = default;
  ~Image() { (void)close(); }
  Result<> close();
  block::Edge& edge() const { return *edge_; }
  block::BlockNode& node() const { return edge_->node(); }
  block::Qcow2* qcow2() const { return dynamic_cast<block::Qcow2*>(&edge_->node()); }
  u64 length() const { return edge_->length_bytes(); }
  const std::string& name() const { return name_; }
  explicit operator bool() const { return edge_ != nullptr; }

 private:
  std::string name_;
  block::Child edge_;
};
OpenOptions open_options(const Arguments& args);  // -f -t -T -U --image-opts as most commands have them
// The value of a task on the tool's loop.
template <class T>
Result<T> wait(Task<T> task) {
  return run_task(loop(), std::move(task));
}

// What a reader of `node` finds at `offset`, through the chain of backing files.
struct Status {
  enum class Kind : u8 { data, zero } kind = Kind::zero;
  u64 length = 0;
  u32 depth = 0;
  bool present = false;  // some node of the chain says so, rather than nobody
  bool compressed = false;
  bool hole = false;  // zeros because the file below has a hole there
  bool has_offset = false;
  u64 offset = 0;
  block::BlockNode* node = nullptr;
};
// `top_only`: what lies below counts as "nobody".
Task<Status> status_at(block::BlockNode& node, u64 offset, u64 length, bool top_only = false);

// Lines of progress on stdout: "    (12.34/100%)".
class Progress {
 public:
  Progress(bool on, u64 total);
  ~Progress();
  void add(u64 done);
  void finish();

 private:
  void print(double percent);
  bool on_, finished_ = false;
  u64 total_, done_ = 0;
  double shown_ = -1;
};

}  // namespace vmm::tools::img
