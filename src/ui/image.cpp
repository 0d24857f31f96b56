// Pictures as files: PPM (netpbm, "P6") and PNG by libpng.
#include <fcntl.h>
#include <png.h>
#include <setjmp.h>

#include <cstdio>
#include <memory>

#include "src/base/fd.h"
#include "src/base/host.h"
#include "src/ui/screen.h"

namespace vmm::ui {
namespace {

using File = std::unique_ptr<std::FILE, int (*)(std::FILE*)>;

Result<File> open_file(const std::string& path) {
  const int fd = host::open_file(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  if (fd < 0) return fail_errno(format("failed to open file '{}'", path));
  return File{::fdopen(fd, "wb"), &std::fclose};
}

std::vector<u8> rgb_row(const Picture& p, unsigned y) {
  std::vector<u8> row(usize{3} * p.width);
  for (unsigned x = 0; x < p.width; x++) {
    const u32 c = p.pixels[usize{y} * p.width + x];
    row[3 * x] = static_cast<u8>(c >> 16), row[3 * x + 1] = static_cast<u8>(c >> 8), row[3 * x + 2] = static_cast<u8>(c);
  }
  return row;
}

Result<> check(const Picture& p) {
  if (!p.width || !p.height || p.pixels.size() != usize{p.width} * p.height) return fail("no surface");
  return {};
}

// libpng reports errors by longjmp; nothing with a destructor lives in this frame.
bool encode(std::FILE* file, const std::vector<std::vector<u8>>& rows, unsigned width) {
  png_structp png = ::png_create_write_struct(PNG_LIBPNG_VER_STRING, nullptr, nullptr, nullptr);
  png_infop info = png ? ::png_create_info_struct(png) : nullptr;
  if (!info) {
    ::png_destroy_write_struct(&png, nullptr);
    return false;
  }
  if (setjmp(png_jmpbuf(png))) {
    ::png_destroy_write_struct(&png, &info);
    return false;
  }
  ::png_init_io(png, file);
  ::png_set_IHDR(png, info, width, static_cast<png_uint_32>(rows.size()), 8, PNG_COLOR_TYPE_RGB, PNG_INTERLACE_NONE,
                 PNG_COMPRESSION_TYPE_DEFAULT, PNG_FILTER_TYPE_DEFAULT);
  ::png_write_info(png, info);
  for (usize y = 0; y < rows.size(); y++) ::png_write_row(png, rows[y].data());
  ::png_write_end(png, info);
  ::png_destroy_write_struct(&png, &info);
  return true;
}
}  // namespace

Result<> write_ppm(const Picture& picture, const std::string& path) {
  TRY(check(picture));
  const File file = TRY(open_file(path));
  bool good = std::fprintf(file.get(), "P6\n%u %u\n255\n", picture.width, picture.height) > 0;
  for (unsigned y = 0; good && y < picture.height; y++) {
    const auto row = rgb_row(picture, y);
    good = std::fwrite(row.data(), 1, row.size(), file.get()) == row.size();
  }
  if (!good || std::fflush(file.get())) return fail_errno(format("failed to write file '{}'", path));
  return {};
}

Result<> write_png(const Picture& picture, const std::string& path) {
  TRY(check(picture));
  const File file = TRY(open_file(path));
  std::vector<std::vector<u8>> rows;
  for (unsigned y = 0; y < picture.height; y++) rows.push_back(rgb_row(picture, y));
  if (!encode(file.get(), rows, picture.width) || std::fflush(file.get())) return fail_errno(format("failed to write file '{}'", path));
  return {};
}

}  // namespace vmm::ui
