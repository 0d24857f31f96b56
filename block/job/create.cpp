// blockdev-create: makes an image on a node that is open (formats) or a file (protocols), as a job. Source: contract.md §2.6 ("Snapshot,
// external"), QEMU's names of the options; they become the create options of the driver.
#include <algorithm>

#include "block/job/job.h"

namespace vmm {
namespace block {
namespace {
struct CreateArgs {
  std::string job_id;
  Value options;
};
}  // namespace
}  // namespace block
template <>
inline constexpr std::array fields<block::CreateArgs> = {
    field<&block::CreateArgs::job_id>("job-id", "Name of the job."),
    field<&block::CreateArgs::options>("options", "driver, and what that driver takes: file or filename, size, cluster-size, …"),
};

namespace block {
namespace {

class Create final : public Job {
 public:
  Create(JobOptions options, const BlockDriver& driver, NodeRef file, std::string filename, CreateOptions create)
      : Job(JobType::create, std::move(options)),
        driver_(driver),
        file_(std::move(file)),
        filename_(std::move(filename)),
        create_(std::move(create)) {}

 private:
  Task<> run() override {
    set_total(1);
    if (driver_.create_file) {
      co_await driver_.create_file(*current_loop(), filename_, create_);
    } else {
      // As a format's own child: past the file's end there are zeros, and writes make it longer.
      auto edge = Edge::make(file_, "file", format("job '{}'", options().id), Role::file, permit_all, permit_read);
      if (!edge) co_return std::unexpected(std::move(edge).error());
      edge_ = std::move(*edge);
      co_await driver_.create_format(*edge_, create_);
      co_await edge_->flush();
    }
    add_done(1);
    co_return Result<>{};
  }
  Task<> finish(bool) override {
    edge_.reset();
    if (file_) (void)co_await attempt(release(std::exchange(file_, nullptr)));
    co_return Result<>{};
  }
  const BlockDriver& driver_;
  NodeRef file_;
  std::string filename_;
  CreateOptions create_;
  Child edge_;
};

// A number, also as digits, and no less than 0.
Result<u64> size_of(const Value& v, std::string_view what) {
  Bytes64 bytes;
  TRY(Codec<Bytes64>::from_value(bytes, v, what, {}));
  return bytes.value;
}

Task<Value> blockdev_create(control::Context&, Value arguments) {
  CreateArgs args;
  if (auto ok = assign_fields(&args, fields<CreateArgs>, arguments); !ok) co_return std::unexpected(std::move(ok).error());
  auto id = job_id_for(args.job_id, "");
  if (!id) co_return std::unexpected(std::move(id).error());
  const Value* name = args.options.is_object() ? args.options.find("driver") : nullptr;
  if (!name || !name->is_string()) co_return fail("Parameter 'options.driver' is missing");
  const BlockDriver* driver = find_driver(name->get_string());
  if (!driver) co_return fail("Parameter 'options.driver' does not accept value '{}'", name->get_string().substr(0, 100));
  if (!driver->create_file && !driver->create_format) co_return fail("Driver '{}' does not support blockdev-create", driver->name);
  if (find_job(*id)) co_return fail("Job ID '{}' already in use", *id);
  CreateOptions create;
  std::string filename;
  std::optional<Value> file;
  bool sized = false;
  for (const auto& [key, value] : args.options.members()) {
    if (key == "driver") continue;
    if (key == "filename" && driver->create_file) {
      if (!value.is_string()) co_return fail("Invalid parameter type for 'options.filename', expected: string");
      filename = value.get_string();
    } else if (key == "file" && driver->create_format) {
      file = value;
    } else if (key == "size") {
      auto size = size_of(value, "size");
      if (!size) co_return std::unexpected(std::move(size).error());
      create.length_bytes = *size, sized = true;
    } else {
      std::string option = key;
      std::ranges::replace(option, '-', '_');
      Value v = value;
      if (option == "version" && v.is_string()) {
        option = "compat";
        v = Value{v.get_string() == "v2" ? "0.10" : v.get_string() == "v3" ? "1.1" : v.get_string()};
      } else if (option == "data_file") {
        // A node here: the image names its file.
        const NodeRef data = v.is_string() ? find_node(v.get_string()) : nullptr;
        if (!data) co_return fail("Cannot find device='' nor node-name='{}'", v.is_string() ? v.get_string() : to_json(v));
        v = Value{data->filename()};
      }
      if (!find_field(driver->create_options, option)) co_return fail("Parameter 'options.{}' is unexpected", key.substr(0, 100));
      create.options.set(std::move(option), std::move(v));
    }
  }
  if (!sized) co_return fail("Parameter 'options.size' is missing");
  if (driver->create_file && filename.empty()) co_return fail("Parameter 'options.filename' is missing");
  NodeRef node;
  if (driver->create_format) {
    if (!file) co_return fail("Parameter 'options.file' is missing");
    if (file->is_string()) {
      node = find_node(file->get_string());
      if (!node) co_return fail("Cannot find device='' nor node-name='{}'", file->get_string());
    } else {
      node = co_await open_node(*current_loop(), std::move(*file));
    }
    if (auto home = must_be_at_home(*node); !home) co_return std::unexpected(std::move(home).error());
  }
  auto started = start_job(std::make_shared<Create>(JobOptions{.id = *id, .auto_dismiss = false, .on_blocks = false}, *driver,
                                                    std::move(node), std::move(filename), std::move(create)));
  if (!started) co_return std::unexpected(std::move(started).error());
  co_return Value::object();
}

control::Registered registered{control::Command{.info = {.name = "blockdev-create", .doc = "Makes an image, as a job.", .since = "3.0"},
                                                .arguments = fields<CreateArgs>,
                                                .run_slow = blockdev_create}};

}  // namespace
}  // namespace block
}  // namespace vmm
