# Handed to llama.cpp as CMAKE_PROJECT_INCLUDE: compiles its many small sources a dozen at a time, which halves the build,
# without touching the vendored tree. (Its `llama` target does the same for itself.)

# Joins the sources of `target` in `folder`, at most `batch` to a unit; all its other sources compile on their own.
function(worker_adapters_join target folder batch)
  get_target_property(sources ${target} SOURCES)
  get_target_property(base ${target} SOURCE_DIR)
  list(FILTER sources INCLUDE REGEX "(^|/)${folder}/[^/]+\\.cpp$")
  set(count 0)
  foreach(source IN LISTS sources)
    cmake_path(ABSOLUTE_PATH source BASE_DIRECTORY "${base}")
    math(EXPR unit "${count} / ${batch}")
    set_source_files_properties("${source}" TARGET_DIRECTORY ${target} PROPERTIES UNITY_GROUP "${folder}${unit}")
    math(EXPR count "${count} + 1")
  endforeach()
  set_target_properties(${target} PROPERTIES UNITY_BUILD ON UNITY_BUILD_MODE GROUP)
endfunction()

function(worker_adapters_join_all)
  worker_adapters_join(llama-common parsers 8)
  worker_adapters_join(llama-common jinja 6)
  worker_adapters_join(mtmd models 12)
endfunction()

# Every project() of the tree includes this file; the targets exist once the top folder has been read.
if(PROJECT_NAME STREQUAL "llama.cpp")
  cmake_language(DEFER DIRECTORY "${CMAKE_SOURCE_DIR}" CALL worker_adapters_join_all)
endif()
