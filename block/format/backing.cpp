#include "block/format/backing.h"

#include <filesystem>

namespace vmm::block {
namespace {

struct Bounds {
  bool set = false;
  std::vector<std::string> folders;
};
Bounds& bounds() {
  static Bounds b;
  return b;
}

// Empty where the host does not say: then it lies nowhere.
std::string real_name(const std::string& name) {
  std::error_code error;
  const auto path = std::filesystem::weakly_canonical(name, error);
  return error || !path.is_absolute() ? std::string{} : path.string();
}

std::string folder_of(const std::string& name) {
  const auto slash = name.rfind('/');
  return slash == name.npos ? "." : slash == 0 ? "/" : name.substr(0, slash);
}

bool lies_below(const std::string& file, const std::string& folder) {
  if (file.empty() || folder.empty()) return false;
  return folder == "/" || file == folder || (file.starts_with(folder) && file[folder.size()] == '/');
}

// An image in one of these would have the whole of the host for its folder, or what is no file.
bool is_a_folder_of_images(const std::string& folder) {
  return folder != "/" && std::ranges::none_of(std::array{"/dev", "/proc", "/sys"}, [&](const char* f) { return lies_below(folder, f); });
}

Result<> check_file_word(const std::string& of, const std::string& file) {
  const std::string real = real_name(file);
  if (!of.starts_with("json:"))
    for (const std::string& folder : {real_name(folder_of(of)), folder_of(real_name(of))})
      if (is_a_folder_of_images(folder) && lies_below(real, folder)) return {};
  for (const std::string& folder : bounds().folders)
    if (lies_below(real, real_name(folder))) return {};
  return std::unexpected(
      Error{format("only the image '{}' names '{}', as raw data, and it lies outside of the image's folder", of, file)}.with_hint(format(
          "Name the file yourself (backing.driver=raw,backing.file.driver=file,backing.file.filename={}; a data file by data-file.…), "
          "or say that images may name files there: -sandbox files={}",
          file, folder_of(real))));
}

// The image says what is read, not how: who opens it decides what may be written.
void forget_access(Value& tree) {
  if (!tree.is_object()) return;
  for (const char* key : {"read-only", "auto-read-only"}) tree.erase(key);
  for (auto& [key, below] : tree.members()) forget_access(below);
}

}  // namespace

void bound_image_words(std::vector<std::string> folders) { bounds() = {.set = true, .folders = std::move(folders)}; }

Result<> check_image_word(const std::string& of, const Value& tree, bool format_stated) {
  if (!bounds().set) return {};
  const auto refuse = [&](std::string_view what) -> Result<> {
    return std::unexpected(Error{format("only the image '{}' names {}", of, what)}.with_hint(
        "Name it yourself (backing.driver=…), or say -sandbox off: every word of an image is taken then."));
  };
  if (!tree.is_object()) return refuse("a node of this machine");
  const Value* name = tree.find("driver");
  const BlockDriver* driver = name && name->is_string() ? find_driver(name->get_string()) : nullptr;
  if (!driver) return {};  // refused where it is opened
  if (driver->kind == BlockDriver::Kind::filter) return refuse(format("a filter '{}'", driver->name));
  if (driver->kind == BlockDriver::Kind::protocol) {
    if (driver->name == "null-co" || driver->name == "null-aio") return {};
    const Value* file = tree.find("filename");
    if (driver->name != "file" || !file || !file->is_string()) return refuse(format("what the driver '{}' opens", driver->name));
    return format_stated ? Result<>{} : check_file_word(of, file->get_string());
  }
  for (const auto& [key, below] : tree.members()) {
    // Options with dots in their names would be put together after this.
    if (key.find('.') != key.npos) return refuse(format("a child by '{}'", key));
    if (below.is_null() || (key != "backing" && std::ranges::find(driver->children, key) == driver->children.end())) continue;
    TRY(check_image_word(of, below, key == "file" && driver->name != "raw"));
  }
  return {};
}

std::string resolve_name(const std::string& of, const std::string& name) {
  if (name.empty() || name.starts_with('/') || name.starts_with("json:")) return name;
  const auto colon = name.find(':');
  const bool has_protocol = colon != name.npos && name.find('/') > colon;
  if (has_protocol) return name;
  std::string base = of;
  // "json:" names and protocols with paths: the directory is what stands before the last slash.
  const auto slash = base.rfind('/');
  if (base.starts_with("json:") || slash == base.npos) return name;
  return base.substr(0, slash + 1) + name;
}

Task<Value> tree_for_named_file(EventLoop& loop, std::string of, std::string filename, std::string format) {
  Result<Value> named = options_of_filename(filename);
  if (!named) co_return std::unexpected(std::move(named).error());
  Value tree = std::move(*named);
  forget_access(tree);
  if (auto ok = check_image_word(of, tree, !format.empty() && format != "raw"); !ok) co_return std::unexpected(std::move(ok).error());
  const Value* driver_name = tree.find("driver");
  const BlockDriver* driver = driver_name && driver_name->is_string() ? find_driver(driver_name->get_string()) : nullptr;
  if (driver && driver->kind != BlockDriver::Kind::protocol) co_return std::move(tree);
  if (format.empty()) {
    Value probing = tree;
    probing.set("read-only", true);
    NodeRef file = co_await open_node(loop, std::move(probing));
    Result<> looked;
    {
      auto edge = Edge::make(file, "probe", "the format probe", Role::user, permit_read, permit_all);
      if (edge) {
        std::vector<u8> head(std::min<u64>(4096, (*edge)->length_bytes()));
        looked = co_await attempt((*edge)->read(0, IoVector{std::span{head}}));
        int best = 0;
        format = "raw";
        for (const BlockDriver* d : all_drivers())
          if (const int score = d->probe ? d->probe(head, filename) : 0; score > best) best = score, format = d->name;
      } else {
        looked = std::unexpected(std::move(edge).error());
      }
    }
    (void)co_await attempt(release(std::move(file)));
    if (!looked) co_return std::unexpected(looked.error());
  }
  if (!find_driver(format)) co_return fail("Unknown driver '{}'", format);
  Value image = Value::object();
  image.set("driver", Value{format});
  image.set("file", std::move(tree));
  co_return std::move(image);
}

}  // namespace vmm::block
