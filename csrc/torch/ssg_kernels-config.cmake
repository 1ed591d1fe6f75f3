# find_package(ssg_kernels CONFIG) gives ssg_kernels::ssg_kernels. Loading this library registers the operators of
# namespace `ssg` with torch, which the program links too: find_package(Torch).
add_library(ssg_kernels::ssg_kernels SHARED IMPORTED)
get_filename_component(_ssg_kernels_folder "${CMAKE_CURRENT_LIST_DIR}/.." ABSOLUTE)
set_target_properties(ssg_kernels::ssg_kernels PROPERTIES
  IMPORTED_LOCATION "${_ssg_kernels_folder}/libssg_kernels${CMAKE_SHARED_LIBRARY_SUFFIX}"
  # A program that calls only the dispatcher uses no symbol of the library, and must load it all the same.
  INTERFACE_LINK_OPTIONS "$<$<PLATFORM_ID:Linux>:LINKER:--no-as-needed>")
